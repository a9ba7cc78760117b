from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from shards.common.errors import InputError
from trainer.config import flatten
from trainer.presets import PRESETS, parse

FLAGS = (
    "--data.shards", "--data.workers", "--data.audit", "--data.flip", "--out", "--batch-size", "--steps", "--epochs",
    "--seed", "--loss", "--d-steps", "--model.features-g", "--model.features-d", "--model.z-dim",
    "--model.norm-d", "--model.coarse-d", "--model.upsampling", "--model.bn-init-mean", "--model.sync-bn",
    "--checkpoint.every", "--checkpoint.keep", "--samples.every", "--tracking.mode", "--dtype", "--dry-run",
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
    ("--data.trust-base", "data.trust_base", True),
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
    ("--model.kind mlp", "model.kind", "mlp"),
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
        ("--loss wasserstein", "minimax"),
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


def test_presets_are_as_long_as_they_say() -> None:
    for preset, epochs, samples in (
        ("mnist", 5, 60_000),
        ("tutorial", 5, 60_000),
        ("celeba", 25, 202_599),
        ("lsun", 1, 3_033_042),
    ):
        config = PRESETS[preset][1]
        counted = dataclasses.replace(config, epochs=epochs)
        assert config.remaining_steps(0, 0, samples) == counted.remaining_steps(0, 0, samples)


def test_an_unknown_preset_is_named_with_those_there_are() -> None:
    with pytest.raises(InputError, match=r"no preset 'imagenet'.*faces, mnist, celeba, lsun"):
        parse(["imagenet", "--steps", "3"])
