"""From a config to a finished run: check everything, open everything, train, leave word of how it ended."""

from __future__ import annotations

import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from accelerate import Accelerator, DistributedDataParallelKwargs

from shards.build import build
from shards.dataset import ShardDataset
from shards.errors import InputError
from shards.manifest import MANIFEST
from shards.sources.faces import Faces
from trainer import checkpoint, plan
from trainer.batchnorm import synchronise
from trainer.config import PRESETS, Config, flatten
from trainer.device import Launch, idle_gpus, resolve_precision, set_threads
from trainer.folder import RunFolder
from trainer.journal import Journal, roll_back
from trainer.loop import train
from trainer.progress import Progress
from trainer.session import Session
from trainer.state import create_state
from trainer.step import Step
from trainer.tracking import Tracker


def run(preset: str, config: Config, launch: Launch) -> None:
    """Train as ``config`` says, from the newest checkpoint in the run folder or from the start.

    Everything that can be wrong with the input is found before the first collective, by every rank for itself.

    Raises:
        InputError: the data, the run folder or the launch does not fit the config.
    """
    folder = RunFolder(config.out)
    folder.check(config)
    if config.batch_size % launch.ranks:
        raise InputError(f"--batch-size {config.batch_size} does not divide among {launch.ranks} ranks.")
    precision, note = resolve_precision(launch, config.dtype)
    _build_default(preset, config, launch.rank)
    resumed = checkpoint.load_newest(folder.checkpoints)
    facts: dict[str, Any] = resumed[2] if resumed else {}
    dataset = _open_data(config, facts)
    left = config.remaining_steps(facts.get("step", 0), facts.get("position", 0), len(dataset))
    shown = launch.rank == 0
    if shown:
        header = plan.describe(config, dataset.manifest, launch, precision, facts.get("position", 0), left)
        notes = [f"note     {line}" for line in (note, idle_gpus(launch)) if line]
        print("\n".join([header, *notes]), file=sys.stderr, flush=True)
    if config.dry_run:
        if shown:
            print("\n".join(f"{name}: {value}" for name, value in flatten(config).items()))
        return
    if not left:
        if shown:
            print("Done already: nothing to do. Raise --steps or --epochs, or give another --out.", file=sys.stderr)
        return
    if shown:
        folder.claim(config)
    set_threads(launch, config.threads)
    accelerator = Accelerator(
        cpu=launch.cpu,
        mixed_precision=precision,
        log_with=None if config.tracking.mode == "disabled" else "wandb",
        # Buffers are equal on all ranks, and broadcasting them in place breaks the two forwards before D's backward.
        kwargs_handlers=[DistributedDataParallelKwargs(broadcast_buffers=False)],
    )
    session = _open_session(config, folder, dataset, accelerator, resumed, left)
    _conduct(session)
    accelerator.state.destroy_process_group()


def _build_default(preset: str, config: Config, rank: int) -> None:
    """Draw the embedded data set where it is wanted and not there yet."""
    shards = Path(config.data.shards)
    if preset == "faces" and config.data.shards == PRESETS["faces"][1].data.shards and not (shards / MANIFEST).exists():
        if rank == 0:
            print(f"Drawing the embedded data set into {shards}, once.", file=sys.stderr, flush=True)
        build(Faces(), shards)


def _open_data(config: Config, facts: dict[str, Any]) -> ShardDataset:
    """The data set, in the order that the run began with."""
    dataset = ShardDataset(
        Path(config.data.shards),
        seed=config.seed,
        lanes=facts.get("lanes", config.batch_size),
        block=facts.get("block"),
        flip=config.data.flip,
        keys=config.data.audit is not None,
    )
    if len(dataset) < config.batch_size:
        raise InputError(
            f"{config.data.shards} holds {len(dataset)} samples, fewer than one batch of {config.batch_size}. "
            "Give a smaller --batch-size or more data."
        )
    if facts and facts["manifest"] != dataset.manifest.digest:
        raise InputError(
            f"{config.data.shards} is not the data set that the run in {config.out} was started on: now "
            f"{dataset.manifest.summary}, then {facts['data']}. Give the old data, or another --out for a new run."
        )
    return dataset


def _open_session(
    config: Config,
    folder: RunFolder,
    dataset: ShardDataset,
    accelerator: Accelerator,
    resumed: checkpoint.Loaded | None,
    left: int,
) -> Session:
    main, rank = accelerator.is_main_process, accelerator.process_index
    state = create_state(config, dataset.manifest, accelerator.device, fp16=accelerator.mixed_precision == "fp16")
    if resumed:
        _, tensors, facts = resumed
        state.load(tensors)
        state.scaler.load_state_dict(facts["scaler"])
        state.step, state.position = facts["step"], facts["position"]
    if main:
        folder.stop.unlink(missing_ok=True)  # one that stopped the run before; it has done its work
        for journal in (folder.metrics, *(config.data.audit.glob("rank-*.jsonl") if config.data.audit else ())):
            roll_back(journal, state.step)
    accelerator.wait_for_everyone()
    if accelerator.num_processes > 1 and config.model.sync_bn:
        synchronise(state.generator, accelerator.device)
        synchronise(state.discriminator, accelerator.device)
    generator, discriminator = accelerator.prepare(state.generator, state.discriminator)
    return Session(
        config,
        folder,
        dataset,
        accelerator,
        state,
        Step(state, generator, discriminator, config.loss),
        Tracker(accelerator, folder, config, {"data.digest": dataset.manifest.digest}) if main else None,
        Journal(config.data.audit / f"rank-{rank}.jsonl") if config.data.audit else None,
        Progress(state.step, state.step + left, shown=main),
    )


def _conduct(session: Session) -> None:
    """Train, and leave word of how it ended."""
    state, folder, main = session.state, session.folder, session.accelerator.is_main_process
    try:
        if main:
            folder.write_status("running", state.step, state.position)
        if state.step == 0:
            session.draw_reals()
            session.draw_samples()
        ending = train(session)
        folder.stop.unlink(missing_ok=True)
        if main:
            folder.write_status(ending, state.step, state.position)
    except BaseException as error:
        if main:
            with suppress(OSError):  # on a full disk the first error is the one to tell
                folder.write_status("failed", state.step, state.position, error=str(error) or type(error).__name__)
        raise
    finally:
        session.close()
