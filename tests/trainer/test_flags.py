"""Flags in the forms that W&B's sweep agents write; ``wandb`` itself composes them."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest

from shards.common.errors import InputError
from trainer.config import flatten
from trainer.flags import normalise
from trainer.presets import PRESETS, parse

PRESET = ("celeba", "--model.norm-d", "none")  # flip is on, and --model.coarse-d can be
DEFAULTS = flatten(parse(PRESET)[1])
BOOLEANS = sorted(name for name, value in DEFAULTS.items() if isinstance(value, bool))
CHOSEN: dict[str, Any] = {
    "data.flip": False, "data.strict": True, "tracking.artifacts": True, "model.sync_bn": False, "tf32": True,
    "optim.lr_g": 2e-4, "optim.lr_d": 1e-5, "batch_size": 64.0, "ema_images": 1e6, "epochs": 3, "steps": None,
    "loss": "minimax", "out": "runs/a=b", "data.cache": None, "checkpoint.every": 10,
}  # fmt: skip
"""What a sweep may choose: of each type, with the floats that quantised distributions give for integers."""


def changed(*words: str) -> dict[str, Any]:
    """What the words change in the preset."""
    config = flatten(parse([*PRESET, *words])[1])
    return {name: value for name, value in config.items() if value != DEFAULTS[name]}


def compose(parameters: dict[str, Any]) -> Any:
    """The words that an agent makes of ``parameters``, by the name of the macro."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from wandb.sdk.launch.sweeps.utils import create_sweep_command_args  # takes a second
    return create_sweep_command_args({"args": parameters})


@pytest.mark.parametrize("hyphens", [False, True])
@pytest.mark.parametrize("macro", ["args", "args_no_equals", "args_no_hyphens", "args_json", "args_append_hydra"])
def test_an_agent_may_write_the_flags_with_any_macro(macro: str, hyphens: bool) -> None:
    names = {name: name.replace("_", "-") if hyphens else name for name in CHOSEN}
    words = compose({names[name]: {"value": value} for name, value in CHOSEN.items()})
    assert changed(*words[macro]) == {name: value for name, value in CHOSEN.items() if value != DEFAULTS[name]}


def test_nested_parameters_are_groups_of_flags() -> None:
    chosen = {"optim": {"value": {"lr_g": 1e-05, "beta1": 0.25}}, "data": {"value": {"flip": False, "audit": None}}}
    words = compose(chosen)
    for macro in ("args", "args_no_equals", "args_json"):
        assert changed(*words[macro]) == {"optim.lr_g": 1e-05, "optim.beta1": 0.25, "data.flip": False}


@pytest.mark.parametrize("name", BOOLEANS)
def test_every_boolean_is_read_in_every_form(name: str) -> None:
    flag, (group, dot, last) = name.replace("_", "-"), name.replace("_", "-").rpartition(".")
    negative = f"--{group}{dot}no-{last}"
    on, off = normalise([f"--{flag}"]), normalise([negative])
    for words, expected in ((on, True), (off, False)):
        assert flatten(parse([*PRESET, *words])[1])[name] is expected
    for true in ("True", "true", "TRUE", "1", "yes", "On"):
        for words in ([f"--{flag}={true}"], [f"--{flag}", true], [f"--{name}={true}"], [f"{name}={true}"]):
            assert normalise([*words, "--seed=3"]) == [*on, "--seed=3"]
        for words in ([f"{negative}={true}"], [negative, true], [f"--no-{flag}"]):
            assert normalise([*words, "--seed=3"]) == [*off, "--seed=3"]
    for false in ("False", "false", "FALSE", "0", "no", "Off"):
        for words in ([f"--{flag}={false}"], [f"--{flag}", false]):
            assert normalise(words) == off
        assert normalise([f"{negative}={false}"]) == on
    macros = compose({flag: {"value": True}, "seed": {"value": 3}})
    assert normalise(macros["args_no_boolean_flags"]) == [*on, "--seed=3"]


@pytest.mark.parametrize("word", ["--batch-size=4.5", "--seed=1e400", "--steps=nan", "--data.flip=maybe",
                                  "--data.flip=None", "--dry-run=2"])  # fmt: skip
def test_a_value_of_another_type_is_one_line_with_the_flag(word: str) -> None:
    with pytest.raises(InputError, match=f"^{word.partition('=')[0]} is .*; it must be ") as caught:
        parse([word])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("words", "unknown"),
    [
        (["--betas=[0.5, 0.9]"], "--betas"),
        (["betas=1"], "betas=1"),
        (["--seed=True"], "--seed"),
        (["--batch-size=[64]"], "--batch-size"),
        (["--steps", "--seed", "3"], "--steps"),
        (['{"seed": 3, "lr": 1}'], "--lr=1"),
        (["--optim=sgd"], "--optim=sgd"),
    ],
)
def test_what_is_no_flag_stays_a_usage_error(
    words: list[str], unknown: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        parse([*PRESET, *words])
    assert caught.value.code == 2
    assert unknown in "".join(capsys.readouterr())


def test_large_integers_keep_every_digit() -> None:
    assert changed("--seed=9223372036854775807") == {"seed": 2**63 - 1}


def test_each_run_of_a_sweep_has_a_folder_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_RUN_ID", "r1")
    assert parse([])[1].out == Path("runs/faces")
    monkeypatch.setenv("WANDB_SWEEP_ID", "s")
    for preset in PRESETS:
        assert parse([preset])[1].out == Path("runs/sweep-s/r1")
        assert parse([preset, "--out", "x"])[1].out == Path("x")
    monkeypatch.setenv("WANDB_RUN_ID", "")
    assert parse([])[1].out == Path("runs/faces")
