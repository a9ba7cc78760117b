from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from shards.common.errors import InputError
from shards.format.manifest import Manifest, Shard
from trainer.config import Checkpoints, Config, Data, Model
from trainer.presets import PRESETS, parse
from trainer.ranks.launch import Launch
from trainer.recipe import Penalty, Schedule
from trainer.train.plan import check_memory, check_penalties, describe, disk_note, ignored_flags

MANIFEST = Manifest("celeba", "jpg", 64, 3, (Shard("a.tar", 1500, 9, ""), Shard("b.tar", 500, 9, "")), "")
CONFIG = Config(data=Data(shards="here"), out=Path("there"), steps=1234, checkpoint=Checkpoints(keep=2))
ONE = Launch(rank=0, ranks=1, local_ranks=1, cpu=True, precision="no")


def lines(config: Config = CONFIG, launch: Launch = ONE, precision: str = "no", position: int = 0) -> dict[str, str]:
    text = describe(config, MANIFEST, launch, precision, {"precision": precision, "position": position}, [])
    return dict(line.split(maxsplit=1) for line in text.splitlines())


def test_a_plan_says_all_that_is_about_to_happen() -> None:
    """Weights, average and Adam's two values a weight at four bytes: 4 * (4 * 12,658,435 + 3 * 2,765,633) = 236 MB."""
    assert lines() == {
        "data": "2,000 celeba images of 64x64x3, jpg, in 2 shards at here",
        "networks": "generator 12,658,435 parameters, discriminator 2,765,633, latents of 100",
        "compute": "1 CPU rank, float32, global batch 128, 1 D step per G step",
        "length": "1,234 steps from the start",
        "disk": "236 MB a checkpoint, at most 707 MB, in there",
    }


def test_it_says_what_differs_from_the_usual() -> None:
    found = lines(replace(CONFIG, d_steps=2), replace(ONE, ranks=4, cpu=False), "bf16", 256_000)
    assert found["compute"] == "4 GPU ranks, bf16 mixed precision, global batch 128, 2 D steps per G step"
    assert found["length"] == "1,234 steps from image 256,000"


def test_a_disk_that_is_too_small_is_told_before_the_first_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = replace(CONFIG, out=tmp_path / "not" / "there" / "yet")
    for free, says in ((10**10, None), (700 * 10**6, "700 MB free, perhaps too little")):
        monkeypatch.setattr("shutil.disk_usage", lambda _, free=free: SimpleNamespace(free=free))
        note = disk_note(config, MANIFEST)
        assert (note is None) if says is None else (note is not None and says in note and str(tmp_path) in note)
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=10**8))
    with pytest.raises(InputError, match=r"takes 236 MB; .* has 100 MB free"):
        disk_note(config, MANIFEST)


@pytest.mark.parametrize("features", [10**4, 10**6, 10**12, 10**25])
def test_networks_that_no_memory_holds_are_told_before_any_is_taken(features: int) -> None:
    check_memory(CONFIG, MANIFEST, ONE)
    for model in (Model(features_g=features), Model(features_d=features)):
        with pytest.raises(InputError, match=r"memory.* Lower --model\.features-g"):
            check_memory(replace(CONFIG, model=model), MANIFEST, ONE)
    with pytest.raises(InputError, match=r"take 0\.2 GB of memory a rank, which has 0\.0"):
        check_memory(CONFIG, MANIFEST, replace(ONE, local_ranks=10**6))


def test_double_precision_takes_double_the_disk() -> None:
    found = lines(replace(CONFIG, dtype="float64"))
    assert "float64" in found["compute"]
    assert found["disk"].startswith("471 MB a checkpoint, at most 1414 MB")


def test_residual_networks_without_their_recipe_get_a_note() -> None:
    whole = replace(CONFIG, model=Model(kind="residual"), loss="relativistic", penalty=Penalty(r1=1.0, r2=1.0))
    assert "note" not in lines(whole)
    for config in (replace(whole, loss="hinge"), replace(whole, penalty=Penalty(r1=1.0))):
        assert lines(config)["note"].startswith("Residual networks may not converge without")


@pytest.mark.parametrize(
    ("penalised", "without"),
    [
        ({"penalty": Penalty(r2=1.0)}, "--penalty.r2 0"),
        ({"schedule": Schedule(images=10, r1=1.0)}, "--schedule.r1 0"),
        ({"penalty": Penalty(1.0, 2.0), "schedule": Schedule(images=10, r2=1.0)},
         "--penalty.r1 0 --penalty.r2 0 --schedule.r2 0"),
    ],
)  # fmt: skip
def test_penalties_that_would_be_wrong_are_refused(penalised: dict[str, Any], without: str) -> None:
    """BatchNorm couples the gradients of a batch; float16 has no room for their squares."""
    config, flag = replace(CONFIG, **penalised), without.split(" 0")[0]
    with pytest.raises(InputError, match=rf"^{flag} .* BatchNorm .*Give --model\.norm-d none, or {without}\.$"):
        check_penalties(config, "no")
    smooth = replace(config, model=Model(norm_d="none"))
    with pytest.raises(InputError, match=rf"^{flag} overflows under fp16.*bf16 or no, or give {without}\.$"):
        check_penalties(smooth, "fp16")
    for good, precision in ((smooth, "bf16"), (replace(config, model=Model(kind="mlp")), "no")):
        check_penalties(good, precision)
    flags = without.replace(" 0", " 1").split()
    images = ["--schedule.images", "10"] if "schedule" in without else []
    given = parse(["tutorial", *flags, *images])[1]
    check_penalties(parse(["tutorial", *flags, *images, *without.split()])[1], "fp16")  # what the error says helps
    with pytest.raises(InputError, match=flag):
        check_penalties(given, "fp16")


def test_one_error_names_all_that_batch_norm_excludes() -> None:
    words = ["faces", "--model.norm-d", "batch"]
    with pytest.raises(InputError) as caught:
        parse(words)
    said = str(caught.value)
    assert said.startswith("--model.coarse-d, --penalty.r1, --penalty.r2 need --model.norm-d none, not batch. Add ")
    check_penalties(parse([*words, *said.partition("Add ")[2].rstrip(".").split()])[1], "fp16")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("tutorial --augment.probability 0.5", ["--augment.probability has no effect without --augment.policy."]),
        ("tutorial --augment.probability 0.5 --augment.policy cutout", []),
        ("small-data --augment.policy none", []),
        ("tutorial --penalty.every 4", ["--penalty.every has no effect without --penalty.r1 or --penalty.r2."]),
        ("faces --penalty.r1 0 --penalty.r2 0", []),
        ("faces --model.kind mlp", []),
        ("faces --model.kind residual --model.no-coarse-d", []),
        ("mnist --model.kind mlp --model.coarse-d true", ["--model.coarse-d has no effect on --model.kind mlp."]),
        ("faces --model.kind residual --model.norm-d batch --model.upsampling transposed --model.sync-bn false", [
            f"--model.{flag} has no effect on --model.kind residual." for flag in ("norm-d", "upsampling", "sync-bn")
        ]),
        ("faces --model.bn-init-mean 0 --model.no-coarse-d --model.upsampling transposed", []),
    ],
)  # fmt: skip
def test_flags_without_an_effect_are_told_unless_they_are_the_presets(words: str, said: list[str]) -> None:
    preset, config = parse(words.split())
    assert [*ignored_flags(PRESETS[preset][1], config)] == said


def test_parts_of_another_size_are_another_run_with_batch_norm() -> None:
    """Which says so; without BatchNorm their number may change."""
    config, before = replace(CONFIG, accumulate=4), {"precision": "no", "accumulate": 2}
    with pytest.raises(InputError, match=r"^--accumulate was 2 and is 4: .*Give --accumulate 2, or another --out"):
        describe(config, MANIFEST, ONE, "no", before, [])
    with pytest.raises(InputError, match=r"^--accumulate was 1 and is 4"):  # a checkpoint of an earlier version
        describe(config, MANIFEST, ONE, "no", {"precision": "no"}, [])
    said = describe(config, MANIFEST, ONE, "no", {**before, "accumulate": 4}, [])
    assert "global batch 128 in 4 parts" in said and "each of the 4 parts of 32 images alone" in said
    smooth = describe(replace(config, model=Model(kind="mlp")), MANIFEST, ONE, "no", before, [])
    assert "global batch 128 in 4 parts" in smooth and "BatchNorm" not in smooth
