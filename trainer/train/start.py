"""From a config to a finished run: check everything, open everything, train, leave word of how it ended."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress

from accelerate import Accelerator

from shards.common.processes import available_cores
from shards.common.urls import is_remote
from trainer.config import Config
from trainer.folder.background import Background, Snapshot
from trainer.folder.bad_samples import BadSampleLog
from trainer.folder.journal import Journal, roll_back
from trainer.folder.run_folder import RunFolder
from trainer.gan.kernels.cuda_graph import Replay, cuda_graph
from trainer.gan.state import create_state
from trainer.gan.step import Step
from trainer.ranks.collectives import StopVote, describe_environment
from trainer.ranks.device import set_kernels, set_threads, supports_cuda_graphs
from trainer.ranks.failure import explain_failure
from trainer.ranks.launch import Launch, launch_time
from trainer.ranks.preemption import Preemption
from trainer.ranks.rendezvous import compare_ranks
from trainer.ranks.setup import create_accelerator, wrap
from trainer.train import plan
from trainer.train.examine import Found, dry_run, examine
from trainer.train.loop import train
from trainer.train.session import Session
from trainer.watch.meter import DataAdvisor
from trainer.watch.progress import Progress
from trainer.watch.tracker import Tracker

KEEP_STOP = "SHARDGAN_KEEP_STOP"
"""Set by a script that has removed old STOP files itself, and may write one before the trainer has started."""


def run(preset: str, config: Config, launch: Launch) -> None:
    """Train as ``config`` says, from the newest checkpoint in the run folder or from the start.

    Everything that can be wrong with the input is found before the first collective, and told once.

    Raises:
        InputError: the data, the run folder or the launch does not fit the config.
    """
    main = launch.rank == 0
    folder = RunFolder(config.out)
    if config.dry_run:
        return dry_run(preset, config, launch, folder)
    with ExitStack() as held:
        found = compare_ranks(launch, lambda: examine(preset, config, launch, folder, held))
    dataset, facts, left = found.dataset, found.facts, found.left
    step, position = facts.get("step", 0), facts.get("position", 0)
    if main:
        header = plan.describe(config, dataset.manifest, launch, found.precision, position, left)
        print(plan.with_notes(header, found.notes), file=sys.stderr, flush=True)
        folder.write_config(config)
    if not left:
        if main:
            folder.write_status("done", step, position)  # whoever finished may have been killed before it did
            print("Done already: nothing to do. Raise --steps or --epochs, or give another --out.", file=sys.stderr)
        return None
    set_threads(launch, config.threads)
    set_kernels(tf32=config.tf32)
    with _word_of_failure(folder, launch, lambda: (step, position)):
        accelerator = create_accelerator(config, launch, found.precision)
        session = _open_session(config, folder, accelerator, found, launch)
    # To the last word, or a signal's echo would cut that short.
    with Preemption(folder.stop if main else None) as preemption:
        _conduct(session, preemption, launch)
        accelerator.wait_for_everyone()  # the first launcher to end takes the job along; rank 0 may still be writing
    accelerator.state.destroy_process_group()
    return None


def _open_session(config: Config, folder: RunFolder, accelerator: Accelerator, found: Found, launch: Launch) -> Session:
    main, rank, dataset = accelerator.is_main_process, accelerator.process_index, found.dataset
    state = create_state(
        config,
        dataset.manifest.size,
        dataset.manifest.channels,
        accelerator.device,
        fp16=accelerator.mixed_precision == "fp16",
    )
    if found.resumed:
        _, tensors, facts = found.resumed
        state.load(tensors)
        if facts["scaler"]:  # empty unless the run was trained in fp16 before
            state.scaler.load_state_dict(facts["scaler"])
        state.step, state.position = facts["step"], facts["position"]
    if main:
        if KEEP_STOP not in os.environ:
            folder.remove_old_stop(before=launch_time())
        audits = config.data.audit.glob("rank-*.jsonl") if config.data.audit else ()
        for journal in (folder.metrics, *folder.path.glob("bad-rank-*.jsonl"), *audits):
            roll_back(journal, state.step)
    accelerator.wait_for_everyone()
    generator, discriminator = wrap(accelerator, state, sync_bn=config.model.sync_bn)
    step = Step(state, generator, discriminator, config.loss)
    # Not with DDP's exchanges.
    recorded = config.cuda_graphs and supports_cuda_graphs(launch) and generator is state.generator
    cores = max(1, available_cores() // launch.local_ranks)
    told = {"data.digest": dataset.manifest.digest, **describe_environment(accelerator)}
    return Session(
        config,
        folder,
        dataset,
        accelerator,
        state,
        Replay(step, cuda_graph) if recorded else step,
        Tracker(accelerator, folder, config, told, state.position) if main else None,
        Journal(config.data.audit / f"rank-{rank}.jsonl") if config.data.audit else None,
        BadSampleLog(folder.path / f"bad-rank-{rank}.jsonl"),
        Progress(state.step, state.step + found.left, shown=main),
        StopVote(accelerator.num_processes),
        Background(),
        Background(),
        Snapshot(),
        DataAdvisor(config.data.workers, dataset.manifest.format, is_remote(config.data.shards), cores),
        state.position,
    )


@contextmanager
def _word_of_failure(folder: RunFolder, launch: Launch, where: Callable[[], tuple[int, int]]) -> Iterator[None]:
    """The main rank's status names the cause of what fails inside, and the step and position it failed at."""
    try:
        yield
    except Exception as error:
        step, position = where()
        cause = explain_failure(error, launch, step)
        if launch.rank == 0:
            with suppress(OSError):  # on a full disk the first error is the one to tell
                folder.write_status("failed", step, position, error=cause)
        raise


def _conduct(session: Session, preemption: Preemption, launch: Launch) -> None:
    """Train, and leave word of how it ended."""
    state, folder, main = session.state, session.folder, session.accelerator.is_main_process
    failed = True
    try:
        with _word_of_failure(folder, launch, lambda: (state.step, state.position)):
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
                if ending == "done":
                    session.offer()
    finally:
        session.close(failed=failed)
