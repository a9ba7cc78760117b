"""A run under way: what it was told, what it works on, and who hears of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator

from shards.common.sheet import write_sheet
from shards.loading.dataset import Batch, ShardDataset
from shards.loading.loader import normalise
from trainer.config import Config
from trainer.errors import SharedInputError
from trainer.export.folder import write_folder
from trainer.folder import checkpoint
from trainer.folder.background import Background, Snapshot
from trainer.folder.bad_samples import BadSampleLog, check_bad_samples
from trainer.folder.journal import Journal
from trainer.folder.load_run import load_run
from trainer.folder.run_folder import RunFolder
from trainer.gan.factory import describe_networks
from trainer.gan.kernels.cuda_graph import Iteration
from trainer.gan.noise import latents
from trainer.gan.optimizer import Tensors
from trainer.gan.state import State
from trainer.gan.step import Metrics
from trainer.ranks.collectives import StopVote, check_equal
from trainer.samples import caption, fixed_latents, generate, to_pixels
from trainer.watch.board import AXIS
from trainer.watch.meter import DataAdvisor, Meter, memory
from trainer.watch.progress import Progress
from trainer.watch.tracker import Tracker


@dataclass
class Session:
    """The parts of a run and the verbs that the loop is made of."""

    config: Config
    folder: RunFolder
    dataset: ShardDataset
    accelerator: Accelerator
    state: State
    step: Iteration
    tracker: Tracker | None
    """On the main rank only."""
    audit: Journal | None
    tally: BadSampleLog
    progress: Progress
    accord: StopVote
    writer: Background
    """Of checkpoints."""
    painter: Background
    """Of sheets: a tracker that hangs over one must not hold up a checkpoint."""
    snapshot: Snapshot
    feed: DataAdvisor
    began: int
    """Position that this process started from."""
    unsaved: Metrics | None = None
    """Figures of the last step, if no checkpoint holds it yet."""

    @property
    def steps_left(self) -> int:
        """Steps still to go."""
        return self.config.remaining_steps(self.state.step, self.state.position, len(self.dataset))

    @property
    def dtype(self) -> torch.dtype:
        """Of weights and arithmetic."""
        return torch.float64 if self.config.dtype == "float64" else torch.float32

    def advance(self, parts: Sequence[Batch], *, report: bool) -> Metrics:
        """One iteration on this rank's rows of ``d_steps`` batches; the position moves past them when it is over."""
        config, state = self.config, self.state
        reals = [normalise(part.images, self.dtype) for part in parts]
        metrics = self.step(reals, [self._noise(part) for part in parts], report=report)
        images = config.batch_size * config.d_steps
        state.step += 1
        state.position += images
        if config.ema_images:
            state.update_average(images, config.ema_images)
        if self.audit:
            keys = [key for part in parts for key in part.keys]
            self.audit.append({"step": state.step, "position": parts[0].position, "keys": keys})
        for part in parts:
            self.tally.add(part.bad, state.step)
        self.progress.step()
        self.unsaved = metrics
        return metrics

    def report(self, metrics: Metrics, meter: Meter) -> None:
        """Read the figures of the last step, averaged over the ranks; the one place where the host waits for the
        device.
        """
        self.writer.check()
        self.painter.check()
        state, row = self.state, self._read(metrics)
        speed = meter.read(state.position)  # after the wait: what is only queued is not done
        images_left = self.steps_left * self.config.batch_size * self.config.d_steps
        row |= {**speed, "step": state.step, AXIS: state.position, "epoch": state.position / len(self.dataset)}
        row["data/replaced"] = self._replaced()
        row |= memory(self.accelerator.device)
        if state.scaler.is_enabled():
            row["amp/scale"] = state.scaler.get_scale()
            row["amp/skipped_d"] = state.discriminator_optim.skipped.item()
            row["amp/skipped_g"] = state.generator_optim.skipped.item()
        self.progress.report(row, images_left / speed["speed/images_per_second"])
        if told := self.feed.advise(speed["data/wait"]):
            self.progress.write(told)
        if self.tracker:
            self.tracker.log(row)
            self.folder.write_status("running", state.step, state.position)

    def draw_samples(self) -> None:
        """Write the sheet of the fixed latents, drawn by the averaged generator in ``eval`` mode."""
        if not self.accelerator.is_main_process:
            return
        noise = fixed_latents(self.config.seed, self.config.samples.count, self.config.model.z_dim)
        path = self.folder.samples / f"step-{self.state.step:09d}.png"
        network = self.state.average if self.config.ema_images else self.state.generator
        network.eval()
        images = generate(network, noise)
        self.state.generator.train()
        averaged = self.config.ema_images
        self._show("fake", to_pixels(images), path, caption(self.config.seed, len(noise), self.state.step, averaged))

    def draw_reals(self) -> None:
        """Write a sheet of real images, once, to hold the others against."""
        path = self.folder.samples / "real.png"
        if self.accelerator.is_main_process and not path.exists():
            count = min(self.config.samples.count, len(self.dataset))
            images = self.dataset.__getitems__(range(count)).images.numpy()
            self._show("real", images, path, f"Real images: the first {count} of the run's order.")

    def save(self, metrics: Metrics) -> None:
        """Begin a checkpoint of this step, after every rank's journals that it counts on are durable; it is written and
        published while the training goes on.

        Raises:
            InputError: the losses are not finite, so that the older checkpoints are worth more; or the one before could
                not be written.
        """
        self._read(metrics)
        self.writer.wait()  # the one before: its copy is about to be overwritten
        check_equal(self.accelerator, self._of_all_ranks(), self.state.step, self.state.position)
        for journal in (self.audit, self.tracker):
            if journal:
                journal.sync()
        self.accelerator.wait_for_everyone()
        if self.accelerator.is_main_process:
            config, state, manifest = self.config, self.state, self.dataset.manifest
            facts = {
                "step": state.step,
                "position": state.position,
                "seed": config.seed,
                "lanes": self.dataset.order.lanes,
                "block": self.dataset.order.block,
                "manifest": manifest.digest,
                "data": manifest.summary,
                "precision": self.accelerator.mixed_precision,
                "scaler": state.scaler.state_dict(),
                "networks": describe_networks(config.model, manifest.size, manifest.channels),
            }
            copy, step = self.snapshot.take(state.tensors()), state.step

            def publish() -> None:
                path = checkpoint.save(self.folder.checkpoints, step, copy(), facts, config.checkpoint.keep)
                self.progress.saved(step)
                if self.tracker and config.tracking.artifacts:
                    self.tracker.log_checkpoint(path, facts)

            self.writer.submit(publish)
            self.folder.write_status("running", state.step, state.position)
        self.unsaved = None

    def offer(self) -> None:
        """Log the generator of a run that is done, where that was asked for."""
        if self.tracker and self.config.tracking.artifacts:
            run = self.folder.path
            self.tracker.log_generator(f"{run.name}-generator", lambda folder: write_folder(load_run(run), folder))

    def settle(self) -> None:
        """Wait until the main rank has published the last checkpoint.

        Raises:
            InputError: it could not be written.
        """
        self.writer.wait()
        self.accelerator.wait_for_everyone()

    def rescue(self) -> None:
        """Save the steps before a mistake in the data, unless other ranks, who know nothing of it, had to help."""
        if self.unsaved and self.accelerator.num_processes == 1:
            self.save(self.unsaved)
            self.settle()

    def close(self, *, failed: bool) -> None:
        """Release the bar, the journals and the tracker; nothing is lost without it."""
        self.progress.close()
        self.writer.close()
        self.painter.close()
        if not failed:
            self.accord.close()
        self.dataset.reader.close()
        self.tally.close()
        if self.audit:
            self.audit.close()
        if self.tracker:
            self.tracker.close(failed=failed)

    def agree(self, reason: str | None) -> str | None:
        """Why to leave, at the same step on all ranks: one late, if there are several."""
        if not self.accord.vote(reason is not None):
            return None
        return reason or "another rank's signal"

    def _noise(self, part: Batch) -> torch.Tensor:
        noise = latents(self.config.seed, part.position, len(part.images), self.config.model.z_dim).to(self.dtype)
        # From pageable memory the copy would wait for everything the device still has to do.
        device = self.accelerator.device
        return (noise.pin_memory() if device.type == "cuda" else noise).to(device, non_blocking=True)

    def _read(self, metrics: Metrics) -> dict[str, float]:
        values = self.accelerator.reduce(torch.stack(list(metrics.values())), "mean").tolist()
        row = dict(zip(metrics, values, strict=True))
        # Only the losses: under fp16 a gradient may overflow, and the scaler then skips that step.
        bad = [name for name, value in row.items() if name.startswith("loss/") and not math.isfinite(value)]
        if bad:
            raise SharedInputError(
                f"{', '.join(bad)} stopped being finite by step {self.state.step}: the training has diverged. "
                "No checkpoint was written of it; start anew with a lower learning rate and another --out."
            )
        return row

    def _of_all_ranks(self) -> dict[str, Tensors]:
        """What ranks have in common: without synchronised BatchNorm each keeps statistics of its own."""
        groups = self.state.tensors()
        if not self.config.model.sync_bn:
            for network in ("generator", "average", "discriminator"):
                groups[network] = dict(getattr(self.state, network).named_parameters())
        return groups

    def _replaced(self) -> int:
        """Bad samples so far, of all ranks; ends the run on all of them alike when they are too many."""
        count = torch.tensor(self.tally.count, device=self.accelerator.device)
        total = int(self.accelerator.reduce(count, "sum").item())
        consumed = self.state.position - self.began
        check_bad_samples(total, consumed, len(self.dataset), self.config.data.max_bad)
        return total

    def _show(self, name: str, images: np.ndarray, path: Path, caption: str) -> None:
        position = self.state.position

        def show() -> None:
            write_sheet(images, path, {"name": name, "caption": caption, AXIS: str(position)})
            if self.tracker:
                self.tracker.log_sheet(name, path, position, caption)

        self.painter.submit(show)
