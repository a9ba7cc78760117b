"""The actions that the training loop consists of, on the training state of one rank."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list

from shards.common.progress import Advance
from shards.loading.dataset import Batch, ShardDataset
from shards.loading.loader import normalise
from trainer.config import Config
from trainer.errors import WentWrong
from trainer.evaluate.evaluation import Evaluator, describe_subject, generated
from trainer.folder import checkpoint
from trainer.folder.background import CheckpointWriter
from trainer.folder.journal import check_bad_samples
from trainer.folder.score_log import JUDGES, Subject, lacks_scores, read_scores
from trainer.gan.augmentation import draw
from trainer.gan.factory import create_generator, describe_networks
from trainer.gan.kernels.cuda_graph import Replay
from trainer.gan.networks import Generator, has_batch_norm
from trainer.gan.noise import AUGMENTATION, LATENT
from trainer.gan.optimizer import Tensors
from trainer.gan.philox import Normals
from trainer.gan.schedule import settings
from trainer.gan.state import State, find_non_finite
from trainer.gan.step import Metrics, Step
from trainer.ranks.process_group import StopVote, check_equal, share_buffers
from trainer.samples import caption, fixed_labels, fixed_latents, generate, to_pixels
from trainer.train.divergence import read_metrics
from trainer.train.outputs import Outputs
from trainer.watch.board import AXIS
from trainer.watch.health import Health, Problem
from trainer.watch.meter import Meter, memory
from trainer.watch.progress import seconds_left


class Stopped(Exception):
    """The run is asked to stop during an evaluation."""


@dataclass(kw_only=True)
class Session:
    """Training state, data and outputs of one rank."""

    config: Config
    dataset: ShardDataset
    accelerator: Accelerator
    state: State
    step: Step | Replay
    stop_vote: StopVote
    checkpoints: CheckpointWriter
    outputs: Outputs
    evaluator: Evaluator | None  # scores the generator, if the run asks for it
    first_position: int  # position that this process started from
    products: dict[str, Any]  # which layers compute matrix products, and the machine on which that was measured
    health: Health = field(init=False)  # see recall_health
    unsaved: Metrics | None = None  # metrics of the last step, if no checkpoint holds it yet
    penalties: Metrics = field(default_factory=dict)  # of the last step that had some

    @property
    def steps_left(self) -> int:
        return self.config.remaining_steps(self.state.step, self.state.position, len(self.dataset))

    def advance(self, batches: Sequence[Batch], *, report: bool) -> Metrics:
        """Train one step on this rank's rows of ``parts_per_step`` batches, then advance the position past them."""
        config, state = self.config, self.state
        dtype = torch.float64 if config.dtype == "float64" else torch.float32
        reals = [normalise(batch.images, dtype) for batch in batches]
        numbers = [self._numbers(batch) for batch in batches] if config.augment.names else []
        labels = [self._to_device(batch.labels) for batch in batches if batch.labels is not None]
        noise = [batch.numbers for batch in batches if batch.numbers is not None]
        metrics = self.step(reals, noise, numbers, labels, report=report)
        # Few steps have penalties (--penalty.every), and perhaps none that reports (--log-every).
        self.penalties = {name: metrics[name] for name in metrics if name.startswith("penalty/")} or self.penalties
        images = config.batch_size * config.d_steps
        state.step += 1
        state.position += images
        if config.ema_images:
            state.update_average(images, settings(config, state.position).ema_images)
        self.outputs.record_step(state, batches)
        self.unsaved = metrics
        return metrics | self.penalties

    def latents(self) -> Normals:
        """The latents of the steps from here to the next rollback, which the loader makes beside the images."""
        purpose = LATENT + (self.state.rollbacks << 8)
        return Normals(self.config.seed, self.config.model.z_dim, purpose, self.config.dtype)

    def report(self, metrics: Metrics, meter: Meter) -> None:
        """Report the last step, averaged over the ranks. Only here does training synchronise with the device."""
        self.checkpoints.check()
        state, row = self.state, read_metrics(self.accelerator, metrics, self.state.step)
        speed = meter.read(state.position)  # after the synchronisation, when the queued work is done
        row |= {**speed, "step": state.step, AXIS: state.position, "epoch": state.position / len(self.dataset)}
        now = vars(settings(self.config, state.position))
        row |= {f"schedule/{name}": now[name] for name in self.config.schedule.ends()}
        row["data/replaced"] = self._count_bad_samples()
        row |= memory(self.accelerator.device, meter.workers)
        if state.scaler.is_enabled():
            row["amp/scale"] = state.scaler.get_scale()
            row["amp/skipped_d"] = state.discriminator_optim.skipped.item()
            row["amp/skipped_g"] = state.generator_optim.skipped.item()
        images_left = self.steps_left * self.config.batch_size * self.config.d_steps
        self.outputs.report(row, state, seconds_left(images_left, speed))
        self._react(self.health.check_losses(state.step, row))

    def check(self, metrics: Metrics) -> None:
        """Look for NaN and infinity, in one reduction over the ranks. Nothing may be drawn or saved without it.

        Raises ``InputError`` on all ranks if a loss, a weight, a buffer, an average or an optimizer's state of any rank
        is not finite.
        """
        read_metrics(self.accelerator, metrics, self.state.step, find_non_finite(self.state.tensors()))

    def _sampled_network(self) -> Generator:
        """The generator that samples are drawn with, the average if there is one, as a checkpoint restores it: in
        ``eval`` mode and without autocast. It shares the weights of the training.
        """
        network, manifest = (
            self.state.average if self.config.ema_images else self.state.generator,
            self.dataset.manifest,
        )
        with torch.device("meta"):
            copy = create_generator(self.config.model, manifest.size, manifest.channels, network.classes)
        copy.load_state_dict(network.state_dict(), assign=True)
        return copy.eval().requires_grad_(False)

    def restart(self) -> None:
        """Train on from a state that was restored: what came after it counts no more."""
        self.stop_vote.restart()
        self.unsaved, self.penalties = None, {}
        self.first_position, self.outputs.bad_samples.count = self.state.position, 0

    def owes_evaluation(self) -> bool:
        """Whether the checkpoint that this process starts from lacks its scores, because a kill or a stop came first.

        Every rank must call it.
        """
        config, state, owes = self.config, self.state, [False]
        if self.evaluator and state.step and config.evaluates(state.step, self.steps_left):
            if self.accelerator.is_main_process:
                names = [measure.name for measure in self.evaluator.measures]
                folder = self.outputs.folder
                digest = checkpoint.digest(folder.checkpoints / checkpoint.checkpoint_name(state.step))
                owes = [lacks_scores(read_scores(folder.scores), state.step, digest, names)]
            broadcast_object_list(owes)
        return owes[0]

    def evaluate(self, stopped: Callable[[], bool]) -> bool:
        """Score the generator, on all ranks together; False if it was dropped because the run is asked to stop.

        ``stopped`` says so, on all ranks alike. It is called after every 64 images of a rank.
        """
        if self.evaluator is None:
            return True

        def check(_: int) -> None:
            if stopped():
                raise Stopped

        def progress(_what: str, _total: int, unit: str) -> AbstractContextManager[Advance]:
            return nullcontext(check if unit == "images" else lambda _: None)  # rank 0 compares alone

        config, state, main = self.config, self.state, self.accelerator.is_main_process
        network = self._sampled_network()
        if not config.model.sync_bn:
            share_buffers(network, self.accelerator)
        subject = self._subject()
        self.outputs.progress.write(f"step {state.step}: scoring {config.evaluate.samples:,} images")
        try:
            check(0)  # the next call reads this vote
            fakes = generated(network, config.seed, self.evaluator.dataset)
            results = self.evaluator.score(subject, fakes, progress=progress)
        except Stopped:
            return False
        if main:
            self.checkpoints.wait()
            digest = checkpoint.digest(self.outputs.folder.checkpoints / subject.checkpoint)
            results = [replace(result, digest=digest) for result in results]
            self.outputs.log_scores(results, state.position / len(self.dataset), config.evaluate.by)
        scores = {name: value for result in results for name, value in result.scores.items()}
        self._react(self.health.check_scores(state.step, scores))
        return True

    def _subject(self) -> Subject:
        """The generator that :meth:`_sampled_network` returns, at this step."""
        state, averaged = self.state, bool(self.config.ema_images)
        return describe_subject(state.step, state.position, state.generator, averaged=averaged)

    def recall_health(self) -> None:
        """Judge the training by what the run folder says of its earlier steps. Every rank must call it.

        A training that went wrong before it was stopped or killed raises :class:`WentWrong`, as :meth:`_react` does.
        """
        by, recalled = self.config.evaluate.by, list[Any]([None])
        if self.accelerator.is_main_process:
            judges = (by, *JUDGES) if by else JUDGES  # a score that the training does not compute tells nothing
            questions = self.evaluator.questions(self._subject()) if self.evaluator else []
            recalled = [self.outputs.recall_health(judges, [each.question for each in questions])]
        broadcast_object_list(recalled)
        self.health, found = recalled[0]
        self.outputs.problems = [f"step {step}: {problem.text}" for step, problem in found]
        self._leave_if([problem for _, problem in found])

    def _react(self, problems: Sequence[Problem]) -> None:
        """Show ``problems``, which all ranks found, and raise :class:`WentWrong` unless --on-collapse is ``warn``."""
        for problem in problems:
            self.outputs.warn(problem.text, self.state, alert=self.config.tracking.alerts)
        self._leave_if(problems)

    def _leave_if(self, problems: Sequence[Problem]) -> None:
        if problems and self.config.on_collapse != "warn":
            raise WentWrong(
                f"Step {self.state.step}: {'; '.join(problem.text for problem in problems)}.",
                "Its checkpoints are kept. Start anew with other settings and another --out.",
                since=min(problem.since for problem in problems),
            )

    def draw_samples(self) -> None:
        """Draw a sheet of the fixed latents."""
        if not self.accelerator.is_main_process:
            return
        config, state = self.config, self.state
        count = config.samples.count
        network, classes = self._sampled_network(), self.dataset.classes
        noise = fixed_latents(config.seed, count, config.model.z_dim)
        images = generate(network, noise, labels=fixed_labels(count, len(classes)))
        text = caption(config.seed, count, state.step, config.ema_images, batch_norm=has_batch_norm(network))
        self.outputs.draw_sheet("fake", f"step-{state.step:09d}.png", to_pixels(images), text, state.position, classes)

    def draw_reals(self) -> None:
        """Draw a sheet of real images, once, for comparison."""
        if self.accelerator.is_main_process and not (self.outputs.folder.samples / "real.png").exists():
            count = min(self.config.samples.count, len(self.dataset))
            images = self.dataset.__getitems__(range(count)).images.numpy()
            text = f"Real images: the first {count} of the run's order."
            self.outputs.draw_sheet("real", "real.png", images, text, self.state.position)

    def save(self) -> None:
        """Start a checkpoint of this step, after all ranks have synced the journals that it relies on.

        Raises ``InputError`` if the previous checkpoint could not be written.
        """
        self.checkpoints.wait()
        check_equal(self.accelerator, self._shared_tensors(), self.state.step, self.state.position)
        self.outputs.sync()
        self.accelerator.wait_for_everyone()
        if self.accelerator.is_main_process:
            state, outputs = self.state, self.outputs
            metadata = self._checkpoint_metadata()
            protected = outputs.known_scores.protected(self.config.evaluate.by)

            def on_written(path: Path) -> None:
                outputs.progress.saved(metadata["step"])
                if outputs.tracker and self.config.tracking.artifacts:
                    outputs.tracker.log_checkpoint(path, metadata)

            self.checkpoints.save(state, metadata, on_written, protected)
            outputs.write_status(state)
        self.unsaved = None

    def _checkpoint_metadata(self) -> dict[str, Any]:
        """What a checkpoint stores besides tensors, JSON-ready."""
        manifest, order, state = self.dataset.manifest, self.dataset.order, self.state
        return {
            "step": state.step,
            "position": state.position,
            "seed": self.config.seed,
            "lanes": order.lanes,
            "block": order.block,
            "manifest": manifest.digest,
            "data": manifest.summary,
            "precision": self.accelerator.mixed_precision,
            "labels": self.dataset.labels_digest,
            "accumulate": self.config.accumulate,
            "products": self.products,
            "rollbacks": state.rollbacks,
            "scaler": state.scaler.state_dict(),
            "networks": describe_networks(self.config.model, manifest.size, manifest.channels, self.dataset.classes),
            **self.outputs.known_scores.record(self.config.evaluate.by),
        }

    def finish_checkpoint(self) -> None:
        """Wait until the main rank has written the last checkpoint; raises ``InputError`` if it could not."""
        self.checkpoints.wait()
        self.accelerator.wait_for_everyone()

    def save_before_error(self) -> None:
        """Save the steps before an error in the data. Only on one rank: the others know nothing of the error."""
        if self.accelerator.num_processes == 1:
            self.save_unsaved()
            self.finish_checkpoint()

    def save_unsaved(self) -> None:
        """Save the last step, unless it is saved already or this process has trained none."""
        if self.unsaved:
            self.check(self.unsaved)
            self.save()

    def close(self, *, failed: bool) -> None:
        self.outputs.progress.close()  # first, because warnings would print into a live bar
        self.checkpoints.close()
        if not failed:
            self.stop_vote.close()
        self.dataset.reader.close()
        if self.evaluator:
            self.evaluator.dataset.reader.close()
        self.outputs.close(failed=failed)

    def _numbers(self, batch: Batch) -> torch.Tensor:
        """Random numbers of the augmentation."""
        purpose = AUGMENTATION + (self.state.rollbacks << 8)
        return self._to_device(draw(self.config.seed, batch.position, len(batch.images), purpose))

    def _to_device(self, values: torch.Tensor) -> torch.Tensor:
        # From pageable memory the copy would wait for all queued work of the device.
        device = self.accelerator.device
        return (values.pin_memory() if device.type == "cuda" else values).to(device, non_blocking=True)

    def _shared_tensors(self) -> dict[str, Tensors]:
        """Tensors that are equal on all ranks. Without synchronised BatchNorm each rank has its own statistics."""
        groups = self.state.tensors()
        if not self.config.model.sync_bn:
            for network in ("generator", "average", "discriminator"):
                groups[network] = dict(getattr(self.state, network).named_parameters())
        return groups

    def _count_bad_samples(self) -> int:
        """Bad samples on all ranks so far; raises the same error on all ranks if there are too many."""
        count = torch.tensor(self.outputs.bad_samples.count, device=self.accelerator.device)
        total = int(self.accelerator.reduce(count, "sum").item())
        consumed = self.state.position - self.first_position
        check_bad_samples(total, consumed, len(self.dataset), self.config.data.max_bad)
        return total
