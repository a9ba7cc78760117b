"""The time of a training step of each variant, from which a study finds the images that take equal time."""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from accelerate import Accelerator

from benchmarks.measure import cli
from benchmarks.measure.timing import timed
from benchmarks.rivals.contestants import Shardgan, create
from benchmarks.study.plan import Plan, Variant
from shards.common.errors import InputError
from shards.common.files import atomic_write
from shards.format.manifest import read_manifest
from trainer.config import Config
from trainer.ranks.device import set_kernels, set_threads
from trainer.ranks.launch import read_launch

TIMES = "times.json"
TURNS, SECONDS = 5, 2.0  # of each variant
LENGTH = ("steps", "default_steps")  # fields of a config on which the time of a step does not depend


def with_equal_time(plan: Plan, variants: Sequence[Variant], reference: Variant) -> tuple[Variant, ...]:
    """``variants``, each also scored after the time that ``reference`` takes to the last mark.

    The time of an image, relative to that of ``reference``, is measured once and kept in the folder of the study: it
    decides what is trained.

    Raises:
        InputError: the times in that folder are those of another machine, or of steps with other settings.
    """
    path, settings = plan.out / TIMES, _settings(plan, reference)
    times = _read_times(path, settings)
    names = {variant.name: " ".join((variant.name, *variant.flags)) for variant in (reference, *variants)}
    if missing := [variant for variant in variants if names[variant.name] not in times]:
        seconds = measure(plan, {variant.name: variant for variant in (reference, *missing)})
        times |= {names[name]: value / seconds[reference.name] for name, value in seconds.items()}
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as file:
            file.write(json.dumps({"settings": settings, "times": times}, indent=1).encode())
    return tuple(replace(one, also=_images(plan, one, times[names[one.name]])) for one in variants)


def _settings(plan: Plan, reference: Variant) -> dict[str, str]:
    """What the times of all variants depend on."""
    manifest, trained = read_manifest(plan.shards), plan.trained(reference, 0, plan.marks[-1])
    return {
        "machine": cli.describe_hardware(),
        "torch": torch.__version__,
        "threads": str(plan.threads),
        "precision": plan.precision,
        "images": f"{manifest.size}x{manifest.size}x{manifest.channels}",
        **{name: str(value) for name, value in trained.items() if name not in LENGTH},
    }


def _read_times(path: Path, settings: Mapping[str, str]) -> dict[str, float]:
    if not path.exists():
        return {}
    try:
        kept = json.loads(path.read_text())
        differing = [name for name in settings if kept["settings"].get(name) != settings[name]]
        times: dict[str, float] = kept["times"]
    except (ValueError, LookupError, AttributeError, TypeError) as error:
        raise InputError(f"{path} does not hold the times of a study ({error}). Give another --out.") from error
    if differing:  # measured again, they would give the finished runs other lengths
        name = differing[0]
        raise InputError(
            f"{path} holds times with other {name}: {kept['settings'].get(name)}, now {settings[name]}. Give another "
            "--out."
        )
    return times


def _images(plan: Plan, variant: Variant, time: float) -> int:
    """A whole number of steps of ``variant``."""
    config = plan.config(variant, 0, plan.marks[-1])
    a_step = config.batch_size * config.d_steps
    return max(1, round(plan.marks[-1] / time / a_step)) * a_step


def measure(plan: Plan, variants: Mapping[str, Variant]) -> dict[str, float]:
    """Seconds that each variant trains on an image, without loading it: the median of turns, on ``plan.threads``."""
    manifest = read_manifest(plan.shards)
    set_threads(read_launch(), plan.threads)
    set_kernels(tf32=Config().tf32)
    accelerator = Accelerator(mixed_precision=plan.precision)
    steps: dict[str, tuple[Shardgan, torch.Tensor]] = {}
    for name, variant in variants.items():
        config = plan.config(variant, 0, plan.marks[-1])
        shape = (config.batch_size, manifest.size, manifest.size, manifest.channels)
        images = torch.randint(256, shape, dtype=torch.uint8, device=accelerator.device)
        steps[name] = create(config, accelerator, manifest.size, manifest.channels), images
    turns: dict[str, list[float]] = {name: [] for name in steps}
    for turn in range(TURNS + 1):
        for name, (step, images) in steps.items():
            every = step.config.penalty.every  # a turn holds equally many steps with and without penalties
            once = timed(step, images, every)
            if turn:  # the first one warms up
                count = every * max(1, round(SECONDS / once))
                turns[name].append(timed(step, images, count) / count / (len(images) * step.config.d_steps))
        print(f"times of a step: turn {turn} of {TURNS}", file=sys.stderr)
    return {name: statistics.median(values) for name, values in turns.items()}
