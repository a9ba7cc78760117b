"""The training loop."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import closing, suppress
from itertools import islice

from accelerate.utils import broadcast_object_list

from shards.common.errors import InputError
from shards.loading.dataset import Batch
from shards.loading.loader import batches
from trainer.errors import WentWrong
from trainer.folder import checkpoint
from trainer.folder.run_folder import RunState
from trainer.ranks.peers import Peers
from trainer.ranks.preemption import ANOTHER_RANK, Preemption
from trainer.train.session import Session
from trainer.watch.meter import Meter

MOST_ROLLBACKS = 3  # of a run, after which it fails


class Interrupted(Exception):
    """The run is asked to stop while it waits for data."""


def train(session: Session, preemption: Preemption, peers: Peers) -> RunState:
    """Train until the run is long enough or is asked to stop. Both end with a checkpoint.

    Raises ``InputError`` if the data cannot be read, the disk is full, or the training diverged.
    """
    while True:
        try:
            session.recall_health()
            return _train(session, preemption, peers)
        except WentWrong as error:
            if session.config.on_collapse != "rollback":
                raise
            _roll_back(session, error)


def _train(session: Session, preemption: Preemption, peers: Peers) -> RunState:
    config, state = session.config, session.state
    needed = config.parts_per_step
    parts: list[Batch] = []

    def stop_reason() -> str | None:
        if reason := preemption.reason():
            peers.request_stop()  # a rank that waits for its data does not vote
        return reason

    def stopped() -> bool:
        return session.stop_vote.vote(stop_reason() is not None, ready=False, waiting=stop_reason)

    whole = not session.owes_evaluation() or session.evaluate(stopped)
    meter = Meter(state.position)  # after this evaluation, which is one of an earlier process
    with closing(_open_stream(session, stop_reason, meter)) as stream:
        while session.steps_left and whole:
            _read(session, stream, meter, parts)
            stop = stop_reason() is not None or len(parts) < needed
            ready = len(parts) == 2 * needed - 1 and parts[-1].followed
            if session.stop_vote.vote(stop, ready, stop_reason):
                break
            report = session.steps_left == 1 or (state.step + 1) % config.log_every == 0
            metrics = session.advance(parts[:needed], report=report)
            del parts[:needed]
            done = not session.steps_left
            if report:
                session.report(metrics, meter)
            draw = done or (config.samples.every and state.step % config.samples.every == 0)
            evaluate = config.evaluates(state.step, session.steps_left)
            save = evaluate or state.step % config.checkpoint.every == 0
            if draw or save:
                session.check(metrics)
            if draw:
                session.draw_samples()
            if save:
                with meter.measure("speed/checkpoints"):
                    session.save()
            if evaluate:  # after the checkpoint, which is written meanwhile and survives a kill
                with meter.measure("speed/evaluation"):
                    whole = session.evaluate(stopped)
    session.save_unsaved()
    session.finish_checkpoint()
    progress, samples = session.outputs.progress, session.outputs.folder.samples
    if session.steps_left or not whole:
        reason = preemption.reason() or ANOTHER_RANK
        progress.write(f"Stopped at step {state.step} because of {reason}. The same command resumes the run.")
        return "preempted"
    progress.write(f"Done: {samples / f'step-{state.step:09d}.png'}. Next: python -m trainer.explore {config.out} grid")
    return "done"


def _roll_back(session: Session, problem: WentWrong) -> None:
    """Return to the best checkpoint from before the problem, or to the newest if none is scored, and draw other latents
    from there.

    Raises ``WentWrong`` again, with the reason, if there is none that is whole, or if the run went back
    :data:`MOST_ROLLBACKS` times. All ranks call it.
    """
    config, state, outputs = session.config, session.state, session.outputs
    session.checkpoints.wait()
    main = session.accelerator.is_main_process
    names = [outputs.checkpoints_to_return_to(config.evaluate.by, problem.since) if main else []]
    broadcast_object_list(names)
    rollbacks = state.rollbacks + 1
    if rollbacks > MOST_ROLLBACKS:
        raise _give_up(problem, f"The run went back {MOST_ROLLBACKS} times already, the most that it does.")
    for name in names[0]:
        with suppress(checkpoint.TornCheckpoint):  # on all ranks, because they read one file
            tensors, metadata = checkpoint.load(outputs.folder.checkpoints / name)
            break
    else:
        raise _give_up(problem, "There is no whole checkpoint from before it to go back to.")
    state.restore(tensors, metadata)
    state.rollbacks = rollbacks
    session.restart()
    if main:
        outputs.roll_back(state, config.data.audit, problem.problem)
    session.accelerator.wait_for_everyone()
    outputs.record_rollback(state, problem.problem)


def _give_up(problem: WentWrong, why: str) -> WentWrong:
    return WentWrong(f"{problem.problem} {why}", problem.advice, problem.since)


def _open_stream(session: Session, stop_reason: Callable[[], str | None], meter: Meter) -> Generator[Batch]:
    def wait() -> None:
        if stop_reason():
            raise Interrupted

    return batches(
        session.dataset,
        position=session.state.position,
        batch_size=session.config.batch_size,
        parts=session.config.accumulate,
        rank=session.accelerator.process_index,
        ranks=session.accelerator.num_processes,
        workers=session.config.data.workers,
        device=session.accelerator.device,
        companion=session.latents(),
        waiting=wait,
        started=meter.watch,
    )


def _read(session: Session, stream: Iterator[Batch], meter: Meter, parts: list[Batch]) -> None:
    """Extend ``parts`` to this rank's rows of the next step's batches; to fewer if the run is asked to stop meanwhile.

    Those of the step after it are added too, all but the last one, unless they take waiting.
    """
    needed = session.config.parts_per_step
    try:
        with meter.measure("data/wait"), suppress(Interrupted):
            parts += islice(stream, needed - len(parts))
            while len(parts) < 2 * needed - 1 and parts[-1].followed:
                parts.append(next(stream))
    except InputError:
        session.save_before_error()
        raise
