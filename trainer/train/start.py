"""Runs a training from a config to its end: check, open, train, and record how it ended."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from threading import Thread

from accelerate import Accelerator

from shards.common.processes import available_cores
from shards.common.urls import is_remote
from trainer.config import Config
from trainer.errors import explain_allocation
from trainer.folder import checkpoint
from trainer.folder.background import CheckpointWriter
from trainer.folder.journal import BadSampleLog, Journal, roll_back_folder
from trainer.folder.known_scores import KnownScores
from trainer.folder.run_folder import RunFolder
from trainer.folder.start_log import record_start
from trainer.gan.kernels.cuda_graph import Replay, cuda_graph
from trainer.gan.state import State, create_state
from trainer.gan.step import Step
from trainer.ranks.device import set_kernels, set_threads, supports_cuda_graphs
from trainer.ranks.launch import Launch, launch_time
from trainer.ranks.peers import Peers
from trainer.ranks.preemption import Preemption
from trainer.ranks.process_group import StopVote, create_accelerator, describe_environment, wrap
from trainer.ranks.rendezvous import LOST_CONNECTION, compare_ranks, explain_failure
from trainer.train import plan
from trainer.train.evaluation import create_evaluation
from trainer.train.loop import train
from trainer.train.memory import advise
from trainer.train.outputs import Outputs
from trainer.train.prepare import Prepared, dry_run, prepare
from trainer.train.products import choose_products
from trainer.train.session import Session
from trainer.watch.meter import DataAdvisor
from trainer.watch.progress import Progress
from trainer.watch.tracker import Tracker, code_version

KEEP_STOP = "SHARDGAN_KEEP_STOP"
"""Environment variable of job scripts. Set, the trainer keeps a STOP file that is older than itself: the script has
already removed those of earlier runs."""

WRITING = 10.0
"""Seconds for the checkpoint that is being written when a rank is lost; the launcher kills the others after 30 s."""


def run(preset: str, config: Config, launch: Launch) -> None:
    """Train as ``config`` says, from the newest checkpoint in the run folder or from the start.

    Raises ``InputError``, before the first collective, if the data, the run folder or the launch does not fit.
    """
    main = launch.rank == 0
    folder = RunFolder(config.out)
    if config.dry_run:
        dry_run(preset, config, launch, folder)
        return
    with ExitStack() as locks:
        prepared = compare_ranks(launch, lambda: prepare(preset, config, launch, folder, locks))
    if main:
        print(prepared.header, file=sys.stderr, flush=True)
        folder.write_config(config)
    if not prepared.steps_left and not prepared.unfinished:
        if main:
            print("Done already: nothing to do. Raise --steps or --epochs, or give another --out.", file=sys.stderr)
        return
    set_threads(launch, config.threads)
    set_kernels(tf32=config.tf32)
    batch_norm = plan.uses_batch_norm(config, prepared.dataset.manifest)
    with _failure_recorded(folder, launch, prepared, batch_norm):
        accelerator = create_accelerator(config, launch, prepared.precision)
        session = _open_session(config, folder, accelerator, prepared, launch)
    # Until the end, because a repeated signal would kill the process while it writes its status.
    with Preemption(folder.stop if main else None) as preemption:
        _train(session, preemption, launch, batch_norm)
        accelerator.wait_for_everyone()  # the first launcher to end ends the job, and rank 0 may still be writing
    accelerator.state.destroy_process_group()


def _open_session(
    config: Config, folder: RunFolder, accelerator: Accelerator, prepared: Prepared, launch: Launch
) -> Session:
    main, rank, manifest = launch.rank == 0, launch.rank, prepared.dataset.manifest
    state = _restore_state(config, accelerator, prepared)
    if main:
        if KEEP_STOP not in os.environ:
            folder.remove_old_stop(before=launch_time())
        roll_back_folder(folder, config.data.audit, state.step)
    accelerator.wait_for_everyone()
    recorded = prepared.resumed[2].get("products", {}) if prepared.resumed else {}
    products = choose_products(config, accelerator, state, manifest.size, manifest.channels, recorded)
    generator, discriminator = wrap(accelerator, state, sync_bn=config.model.sync_bn)
    step = Step(state, generator, discriminator, config)
    replayed = config.cuda_graphs and supports_cuda_graphs(launch) and generator is state.generator  # not with DDP
    metadata = {"data.digest": manifest.digest, **describe_environment(accelerator)}  # a collective
    cores = max(1, available_cores() // launch.local_ranks)
    outputs = Outputs(
        folder=folder,
        known_scores=KnownScores(folder, prepared.resumed[2] if prepared.resumed else {}),
        progress=Progress(prepared.step, prepared.step + prepared.steps_left, shown=main),
        tracker=Tracker(accelerator, folder, config, metadata, prepared.position) if main else None,
        audit=Journal(config.data.audit / f"rank-{rank}.jsonl") if config.data.audit else None,
        bad_samples=BadSampleLog(folder.path / f"bad-rank-{rank}.jsonl"),
        advisor=DataAdvisor(config.data.workers, manifest.format, is_remote(config.data.shards), cores),
    )
    if main:
        start = {"step": prepared.step, "position": prepared.position, **metadata}
        outputs.sheets.submit(lambda: record_start(folder.starts, {**start, **code_version()}))  # git may take long
    return Session(
        config=config,
        dataset=prepared.dataset,
        accelerator=accelerator,
        state=state,
        step=Replay(step, cuda_graph) if replayed else step,
        stop_vote=StopVote(launch.ranks),
        checkpoints=CheckpointWriter(folder.checkpoints, config.checkpoint.keep),
        outputs=outputs,
        evaluator=create_evaluation(config, accelerator, prepared.reals),
        first_position=state.position,
        products=products,
    )


def _restore_state(config: Config, accelerator: Accelerator, prepared: Prepared) -> State:
    manifest, fp16 = prepared.dataset.manifest, accelerator.mixed_precision == "fp16"
    classes = len(prepared.dataset.classes)
    state = create_state(config, manifest.size, manifest.channels, accelerator.device, classes=classes, fp16=fp16)
    if prepared.resumed:
        _, tensors, metadata = prepared.resumed
        state.restore(tensors, metadata)
    state.rollbacks = prepared.rollbacks
    return state


@contextmanager
def _failure_recorded(
    folder: RunFolder, launch: Launch, reached: Prepared | State, batch_norm: bool, outputs: Outputs | None = None
) -> Iterator[None]:
    """If the block fails, write its cause, and the step and position of ``reached``, to the main rank's status."""
    try:
        yield
    except Exception as error:
        advice = advise(started=True, parts=not (batch_norm and checkpoint.checkpoints(folder.checkpoints)))
        explained = explain_allocation(error, f"{advice}. --dry-run estimates it.")
        _record_failure(explained, folder, launch, reached, outputs)
        if explained is not error:
            raise explained from error
        raise


def _record_failure(
    error: Exception, folder: RunFolder, launch: Launch, reached: Prepared | State, outputs: Outputs | None
) -> str:
    cause = explain_failure(error, launch, reached.step)
    if launch.rank == 0:
        warnings = outputs.warnings if outputs else {}
        with suppress(OSError):  # on a full disk, the first error is the one to report
            folder.write_status("failed", reached.step, reached.position, error=cause, **warnings)
    return cause


def _train(session: Session, preemption: Preemption, launch: Launch, batch_norm: bool) -> None:
    """Train, and record how it ended."""
    state, outputs, main = session.state, session.outputs, session.accelerator.is_main_process
    folder, failed = outputs.folder, True

    def on_lost(connection: str) -> None:
        """In a thread, when the main thread is stuck."""
        cause = _record_failure(RuntimeError(f"{LOST_CONNECTION[0]}: {connection}"), folder, launch, state, outputs)
        if os.environ.get("LOCAL_RANK", "0") == "0":  # once in each node's log
            print(f"error (rank {launch.rank} on {platform.node()}): {cause}", file=sys.stderr, flush=True)
        writing = Thread(target=session.checkpoints.close, daemon=True)
        writing.start()
        writing.join(WRITING)  # a device that is stuck may hold up the writer too

    try:
        recorded = _failure_recorded(folder, launch, state, batch_norm, outputs)
        with recorded, Peers(launch, on_lost, preemption.request) as peers:
            if main:
                outputs.write_status(state)
            if state.step == 0:
                session.draw_reals()
                session.draw_samples()
            ending = train(session, preemption, peers)
            failed = False
            if main:
                folder.stop.unlink(missing_ok=True)
                outputs.write_status(state, ending)
                if ending == "done" and session.config.tracking.artifacts:
                    outputs.log_generator()
    finally:
        session.close(failed=failed)
