"""The training loop."""

from __future__ import annotations

from contextlib import closing
from itertools import islice

from shards.common.errors import InputError
from shards.loading.loader import batches
from trainer.folder.run_folder import RunState
from trainer.ranks.preemption import Preemption
from trainer.train.session import Session
from trainer.watch.meter import Meter


def train(session: Session, preemption: Preemption) -> RunState:
    """Train until the run is long enough or is asked to stop. Both end with a checkpoint.

    Raises ``InputError`` if the data cannot be read, the disk is full, or the training diverged.
    """
    config, state, accelerator = session.config, session.state, session.accelerator
    stream = batches(
        session.dataset,
        position=state.position,
        batch_size=config.batch_size,
        rank=accelerator.process_index,
        ranks=accelerator.num_processes,
        workers=config.data.workers,
        device=accelerator.device,
    )
    meter, reason = Meter(state.position), None
    with closing(stream):
        while session.steps_left and not reason:
            try:
                with meter.measure("data/wait"):
                    parts = list(islice(stream, config.d_steps))
            except InputError:
                session.save_before_error()
                raise
            report = session.steps_left == 1 or (state.step + 1) % config.log_every == 0
            metrics = session.advance(parts, report=report)
            done = not session.steps_left
            if report:
                session.report(metrics, meter)
            draw = done or (config.samples.every and state.step % config.samples.every == 0)
            reason = session.stop_reason(preemption.reason())
            save = done or reason or state.step % config.checkpoint.every == 0
            if draw or save:
                session.check(metrics)
            if draw:
                session.draw_samples()
            if save:
                with meter.measure("speed/checkpoints"):
                    session.save()
    session.finish_checkpoint()
    progress, samples = session.outputs.progress, session.outputs.folder.samples
    if session.steps_left:
        progress.write(f"Stopped at step {state.step} because of {reason}. The same command resumes the run.")
        return "preempted"
    progress.write(f"Done: {samples / f'step-{state.step:09d}.png'}. Next: python -m trainer.explore {config.out} grid")
    return "done"
