from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import get_args

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from shards.common.errors import InputError
from trainer.config import Config, Data, flatten
from trainer.flags import _types
from trainer.folder.run_folder import differences
from trainer.recipe import Augment, Schedule

FREE = {
    "data.shards", "data.workers", "data.audit", "data.strict", "data.max_bad", "data.cache",
    "data.cache_gb", "data.trust_base", "checkpoint.every",
    "checkpoint.keep", "samples.every",
    "samples.count", "evaluate.every", "evaluate.samples", "evaluate.features", "evaluate.by",
    "tracking.board", "tracking.mode", "tracking.project",
    "tracking.artifacts", "tracking.alerts", "on_collapse",
    "out", "batch_size", "accumulate", "steps", "epochs", "threads", "tf32", "cuda_graphs",
    "log_every", "dry_run", "default_steps", "model.sync_bn",
}  # fmt: skip
"""The fields that may change when a run goes on, written out once more: a new field must be put on one side."""

IDENTITY = {
    "data.flip", "model.kind", "model.conditional", "model.z_dim", "model.features_g", "model.features_d",
    "model.norm_d", "model.coarse_d", "model.upsampling", "model.bn_init_mean", "optim.lr_g", "optim.lr_d",
    "optim.beta1", "optim.beta2", "penalty.r1", "penalty.r2", "penalty.every", "augment.policy", "augment.probability",
    "schedule.augment", "schedule.images", "schedule.lr_g", "schedule.lr_d", "schedule.beta2", "schedule.r1",
    "schedule.r2", "schedule.ema_images", "seed", "loss", "d_steps", "ema_images", "dtype",
}  # fmt: skip


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
    expected = {name: (FLAT[name], new.get(name)) for name in changed & IDENTITY if new.get(name) != FLAT[name]}
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


@pytest.mark.parametrize("name", [name for name, hint in _types(Config).items() if float in (hint, *get_args(hint))])
@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
def test_every_number_is_finite(name: str, value: str) -> None:
    config = Config(schedule=Schedule(images=1, lr_g=0.0), augment=Augment("cutout"))
    group, _, field = name.rpartition(".")
    number = float(value)
    changed = dataclasses.replace(getattr(config, group), **{field: number}) if group else number
    with pytest.raises(InputError, match=rf"^--{name.replace('_', '-')} is {value}; it must be a finite number\.$"):
        dataclasses.replace(config, **{group or name: changed})


def test_a_run_is_not_written_to_a_url() -> None:
    with pytest.raises(InputError, match=r"^s3://bucket/run is a URL, and only folders can be written to"):
        Config(out=Path("s3://bucket/run"))
    with pytest.raises(InputError, match=r"^s3://bucket/audit is a URL, and only folders can be written to"):
        Config(data=Data(audit=Path("s3://bucket/audit")))


def test_paths_that_are_not_utf8() -> None:
    config = Config(data=Data(shards="caf\udce9", audit=Path("a\udce9")))
    assert flatten(config)["data.shards"] == r"caf\xe9"  # W&B refuses surrogates
    assert flatten(config)["data.audit"] == r"a\xe9"
    with pytest.raises(InputError, match=r"--out is caf\\xe9, which is not valid UTF-8"):
        Config(out=Path("caf\udce9"))
