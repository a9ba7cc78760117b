from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from shards.common.errors import InputError
from trainer.config import PRESETS, Config, differences, flatten, parse

FLAGS = (
    "--data.shards", "--data.workers", "--data.audit", "--data.flip", "--out", "--batch-size", "--steps", "--epochs",
    "--seed", "--loss", "--d-steps", "--model.features-g", "--model.features-d", "--model.z-dim",
    "--model.bn-init-mean", "--model.sync-bn", "--checkpoint.every", "--checkpoint.keep", "--samples.every",
    "--tracking.mode", "--dtype", "--dry-run",
)  # fmt: skip

WORDS: list[tuple[str, str, Any]] = [
    ("--data.shards a/b", "data.shards", "a/b"),
    ("--data.shards https://host/x", "data.shards", "https://host/x"),
    ("--data.workers 0", "data.workers", 0),
    ("--data.audit x", "data.audit", "x"),
    ("--data.strict", "data.strict", True),
    ("--data.max-bad 0.5", "data.max_bad", 0.5),
    ("--data.cache x", "data.cache", "x"),
    ("--data.cache-gb 2", "data.cache_gb", 2.0),
    ("--data.flip", "data.flip", True),
    ("--data.no-flip", "data.flip", False),
    ("--out x/y", "out", "x/y"),
    ("--batch-size 96", "batch_size", 96),
    ("--steps 7", "steps", 7),
    ("--epochs 0.5", "epochs", 0.5),
    ("--seed 9223372036854775807", "seed", 2**63 - 1),
    ("--loss minimax", "loss", "minimax"),
    ("--loss non-saturating", "loss", "non-saturating"),
    ("--d-steps 3", "d_steps", 3),
    ("--model.features-g 8", "model.features_g", 8),
    ("--model.features-d 9", "model.features_d", 9),
    ("--model.z-dim 10", "model.z_dim", 10),
    ("--model.bn-init-mean 0", "model.bn_init_mean", 0.0),
    ("--model.sync-bn false", "model.sync_bn", False),
    ("--model.sync-bn true", "model.sync_bn", True),
    ("--checkpoint.every 11", "checkpoint.every", 11),
    ("--checkpoint.keep 1", "checkpoint.keep", 1),
    ("--samples.every 0", "samples.every", 0),
    ("--tracking.mode offline", "tracking.mode", "offline"),
    ("--dtype float64", "dtype", "float64"),
    ("--dry-run", "dry_run", True),
]

FREE = {
    "data.shards", "data.workers", "data.audit", "data.strict", "data.max_bad", "data.cache",
    "data.cache_gb", "checkpoint.every",
    "checkpoint.keep", "samples.every",
    "samples.count", "tracking.board", "tracking.mode", "tracking.project",
    "tracking.artifacts", "out", "batch_size", "steps", "epochs", "threads", "tf32", "cuda_graphs",
    "log_every", "dry_run", "default_steps", "model.sync_bn",
}  # fmt: skip
"""The fields that may change when a run goes on, written out once more: a new field must be put on one side."""

IDENTITY = {
    "data.flip", "model.kind", "model.z_dim", "model.features_g", "model.features_d", "model.bn_init_mean",
    "optim.lr_g", "optim.lr_d", "optim.beta1", "optim.beta2", "seed", "loss", "d_steps", "ema_images", "dtype",
}  # fmt: skip


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_alone_is_itself(preset: str) -> None:
    assert parse([preset]) == (preset, PRESETS[preset][1])


@pytest.mark.parametrize("words", [[], ["--seed", "0"]])
def test_without_a_preset_it_is_faces(words: list[str]) -> None:
    assert parse(words) == ("faces", PRESETS["faces"][1])


@pytest.mark.parametrize(("words", "name", "value"), WORDS)
def test_a_flag_changes_its_field_and_no_other(words: str, name: str, value: Any) -> None:
    for start in ([], ["celeba"]):
        preset, config = parse([*start, *words.split()])
        assert flatten(config) == {**flatten(PRESETS[preset][1]), name: value}


@pytest.mark.parametrize(
    ("words", "flag"),
    [
        ("--batch-size 0", "--batch-size"),
        ("--steps 0", "--steps"),
        ("--steps -3", "--steps"),
        ("--epochs 0", "--epochs"),
        ("--epochs -1", "--epochs"),
        ("--epochs nan", "--epochs"),
        ("--epochs inf", "--epochs"),
        ("--d-steps 0", "--d-steps"),
        ("--data.workers -1", "--data.workers"),
        ("--model.z-dim 0", "--model.z-dim"),
        ("--model.features-g 0", "--model.features-g"),
        ("--model.features-d 0", "--model.features-d"),
        ("--checkpoint.every 0", "--checkpoint.every"),
        ("--checkpoint.keep 0", "--checkpoint.keep"),
        ("--samples.every -1", "--samples.every"),
        ("--samples.count 0", "--samples.count"),
        ("--ema-images -1", "--ema-images"),
        ("--threads -1", "--threads"),
        ("--log-every 0", "--log-every"),
        ("--seed -1", "--seed"),
        ("--seed 9223372036854775808", "--seed"),
        ("--steps 3 --epochs 1", "--steps and --epochs"),
    ],
)
def test_a_value_that_makes_no_sense_is_one_line_with_the_flag(words: str, flag: str) -> None:
    with pytest.raises(InputError) as caught:
        parse(words.split())
    assert str(caught.value).startswith(flag)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        ("--batchsize 3", "--batch-size"),
        ("--batch-size many", "--batch-size"),
        ("--loss hinge", "minimax"),
        ("--model.sync-bn maybe", "true"),
        ("--dtype float16", "float64"),
        ("--steps", "--steps"),
    ],
)
def test_what_is_not_understood_ends_with_a_hint(words: str, hint: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        parse(words.split())
    assert caught.value.code == 2
    assert hint in "".join(capsys.readouterr())


def test_other_ranks_say_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse(["--nonsense"], quiet=True)
    assert "".join(capsys.readouterr()) == ""


@pytest.mark.parametrize("preset", PRESETS)
def test_help_lists_every_flag(preset: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        parse([preset, "--help"])
    assert caught.value.code == 0
    text = capsys.readouterr().out
    assert [flag for flag in FLAGS if flag not in text] == []
    assert "--default-steps" not in text


def test_help_without_a_preset_lists_the_presets(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        parse(["--help"])
    assert caught.value.code == 0
    text = capsys.readouterr().out
    assert [preset for preset in PRESETS if preset not in text] == []


def test_every_field_has_a_flat_name_that_yaml_and_json_keep() -> None:
    flat = flatten(dataclasses.replace(Config(), out=Path("a/b")))
    assert flat.keys() == FREE | IDENTITY
    assert flat["out"] == "a/b"
    assert yaml.safe_load(yaml.safe_dump(flat)) == flat == json.loads(json.dumps(flat))


FLAT = flatten(Config())


@given(changed=st.sets(st.sampled_from(sorted(FLAT))), missing=st.booleans())
def test_only_what_makes_another_run_counts(changed: set[str], missing: bool) -> None:
    """A field that the old config lacks had its default; one that the new one lacks is known to another version."""
    new = {name: value for name, value in FLAT.items() if not (missing and name in changed)}
    if not missing:
        new |= dict.fromkeys(changed, "other")
    expected = [f"{name}: {FLAT[name]} -> {new.get(name)}" for name in sorted(changed & IDENTITY)]
    assert differences(FLAT, new) == expected
    assert len(differences(new, FLAT)) == (0 if missing else len(expected))


@given(step=st.integers(0, 10**6), position=st.integers(0, 10**9), steps=st.integers(1, 10**6))
def test_steps_are_counted_down_whatever_the_position(step: int, position: int, steps: int) -> None:
    assert Config(steps=steps).remaining_steps(step, position, 100) == max(0, steps - step)
    assert Config(default_steps=steps).remaining_steps(step, position, 100) == max(0, steps - step)


@given(
    epochs=st.floats(0.01, 50),
    samples=st.integers(1, 5000),
    batch=st.integers(1, 200),
    other=st.integers(1, 200),
    d_steps=st.integers(1, 3),
    done=st.integers(0, 100),
)
def test_epochs_are_counted_in_images_over_a_change_of_batch(
    epochs: float, samples: int, batch: int, other: int, d_steps: int, done: int
) -> None:
    """The fewest steps that reach the end, from wherever the run is."""
    config = Config(epochs=epochs, batch_size=other, d_steps=d_steps)
    position = done * batch * d_steps
    left = config.remaining_steps(done, position, samples)
    assert position + left * other * d_steps >= epochs * samples
    assert left == 0 or position + (left - 1) * other * d_steps < epochs * samples


def test_presets_are_as_long_as_they_say() -> None:
    for preset, epochs, samples in (("mnist", 5, 60_000), ("celeba", 25, 202_599), ("lsun", 1, 3_033_042)):
        config = PRESETS[preset][1]
        counted = dataclasses.replace(config, epochs=epochs)
        assert config.remaining_steps(0, 0, samples) == counted.remaining_steps(0, 0, samples)


def test_an_unknown_preset_is_named_with_those_there_are() -> None:
    with pytest.raises(InputError, match=r"no preset 'imagenet'.*faces, mnist, celeba, lsun"):
        parse(["imagenet", "--steps", "3"])
