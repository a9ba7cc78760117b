"""From a config to a finished run: check everything, open everything, train, leave word of how it ended."""

from __future__ import annotations

import sys
from contextlib import suppress
from typing import Any

import psutil
import torch
from accelerate import Accelerator, DistributedDataParallelKwargs

from shards.dataset import ShardDataset
from shards.errors import InputError
from trainer import checkpoint, plan
from trainer.batchnorm import synchronise
from trainer.config import Config, flatten
from trainer.data import build_default, open_data, planned_default, wants_default
from trainer.device import Launch, check_batch, idle_gpus, resolve_precision, set_threads
from trainer.folder import RunFolder
from trainer.journal import Journal, roll_back
from trainer.loop import train
from trainer.preempt import Preemption
from trainer.progress import Progress
from trainer.session import Session
from trainer.state import create_state
from trainer.step import Step
from trainer.tally import Tally
from trainer.tracking import Tracker, resolve_mode


def run(preset: str, config: Config, launch: Launch) -> None:
    """Train as ``config`` says, from the newest checkpoint in the run folder or from the start.

    Everything that can be wrong with the input is found before the first collective, by every rank for itself.

    Raises:
        InputError: the data, the run folder or the launch does not fit the config.
    """
    main = launch.rank == 0
    check_batch(config.batch_size, launch)
    precision, note = resolve_precision(launch, config.dtype)
    resolve_mode(config.tracking.mode)
    folder = RunFolder(config.out)
    if config.dry_run:
        return _dry_run(preset, config, launch, precision, folder)
    with folder.locked_if(main):
        folder.check(config)
        if wants_default(preset, config):
            build_default(config, shown=main)
        resumed = checkpoint.load_newest(folder.checkpoints)
        facts: dict[str, Any] = resumed[2] if resumed else {}
        dataset = open_data(config, facts)
        step, position = facts.get("step", 0), facts.get("position", 0)
        left = config.remaining_steps(step, position, len(dataset))
        room = plan.disk_note(config, dataset.manifest) if left else None
    if main:
        notes = [f"note     {line}" for line in (note, idle_gpus(launch), _changed(facts, precision), room) if line]
        header = plan.describe(config, dataset.manifest, launch, precision, position, left)
        print("\n".join([header, *notes]), file=sys.stderr, flush=True)
        folder.record(config)
    if not left:
        if main:
            folder.write_status("done", step, position)  # whoever finished may have been killed before it did
            print("Done already: nothing to do. Raise --steps or --epochs, or give another --out.", file=sys.stderr)
        return None
    set_threads(launch, config.threads)
    accelerator = Accelerator(
        cpu=launch.cpu,
        mixed_precision=precision,
        log_with=None if config.tracking.mode == "disabled" else "wandb",
        # Buffers are equal on all ranks, and broadcasting them in place breaks the two forwards before D's backward.
        kwargs_handlers=[DistributedDataParallelKwargs(broadcast_buffers=False)],
    )
    session = _open_session(config, folder, dataset, accelerator, resumed, left)
    with Preemption(folder.stop) as preemption:  # to the last word, or a signal's echo would cut that short
        _conduct(session, preemption)
    accelerator.state.destroy_process_group()
    return None


def _dry_run(preset: str, config: Config, launch: Launch, precision: str, folder: RunFolder) -> None:
    folder.check(config)
    if wants_default(preset, config):
        manifest, step, position = planned_default(), 0, 0
    else:
        resumed = checkpoint.load_newest(folder.checkpoints)
        facts = resumed[2] if resumed else {}
        manifest, step, position = open_data(config, facts).manifest, facts.get("step", 0), facts.get("position", 0)
    if launch.rank == 0:
        left = config.remaining_steps(step, position, manifest.samples)
        print(plan.describe(config, manifest, launch, precision, position, left), file=sys.stderr)
        print("\n".join(f"{name}: {value}" for name, value in flatten(config).items()))


def _changed(facts: dict[str, Any], precision: str) -> str | None:
    before = facts.get("precision", precision)
    return None if before == precision else f"This run was trained with mixed precision {before!r} before."


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
        if facts["scaler"]:  # empty unless the run was trained in fp16 before
            state.scaler.load_state_dict(facts["scaler"])
        state.step, state.position = facts["step"], facts["position"]
    _agree_on_start(accelerator, state.step, dataset.manifest.digest)
    if main:
        folder.forget_stop(before=psutil.Process().create_time())
        for journal in (folder.metrics, *(config.data.audit.glob("rank-*.jsonl") if config.data.audit else ())):
            roll_back(journal, state.step)
    accelerator.wait_for_everyone()
    if accelerator.num_processes > 1 and config.model.sync_bn:
        synchronise(state.generator, accelerator.device)
        synchronise(state.discriminator, accelerator.device)
    # Both are on the device; asked to place them, accelerate would load DTensor: 4 s.
    generator, discriminator = accelerator.prepare(
        state.generator, state.discriminator, device_placement=[False, False]
    )
    environment = {"data.digest": dataset.manifest.digest, "ranks": accelerator.num_processes}
    environment["precision"] = accelerator.mixed_precision
    return Session(
        config,
        folder,
        dataset,
        accelerator,
        state,
        Step(state, generator, discriminator, config.loss),
        Tracker(accelerator, folder, config, environment) if main else None,
        Journal(config.data.audit / f"rank-{rank}.jsonl") if config.data.audit else None,
        Tally(folder.path / f"bad-rank-{rank}.jsonl"),
        Progress(state.step, state.step + left, shown=main),
        state.position,
    )


def _agree_on_start(accelerator: Accelerator, step: int, digest: str) -> None:
    """DDP makes weights equal and nothing else: ranks with other checkpoints or data would drift apart silently."""
    if accelerator.num_processes == 1:
        return
    mine = torch.tensor([[step, int(digest[:15], 16)]], device=accelerator.device)
    steps, digests = accelerator.gather(mine).T.tolist()
    if len(set(steps)) > 1:
        raise InputError(f"The ranks found different newest checkpoints: steps {steps}. Do all see the same --out?")
    if len(set(digests)) > 1:
        raise InputError("The ranks found different data sets. Do all see the same --data.shards?")


def _conduct(session: Session, preemption: Preemption) -> None:
    """Train, and leave word of how it ended."""
    state, folder, main = session.state, session.folder, session.accelerator.is_main_process
    failed = True
    try:
        if main:
            folder.write_status("running", state.step, state.position)
        if state.step == 0:
            session.draw_reals()
            session.draw_samples()
        ending = train(session, preemption)
        failed = False
        if main:
            folder.stop.unlink(missing_ok=True)
            folder.write_status(ending, state.step, state.position)
    except BaseException as error:
        if main:
            with suppress(OSError):  # on a full disk the first error is the one to tell
                folder.write_status("failed", state.step, state.position, error=str(error) or type(error).__name__)
        raise
    finally:
        session.close(failed=failed)
