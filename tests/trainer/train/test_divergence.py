"""A training that diverges while its losses are finite ends with one line, and saves and draws nothing of it."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.support.launching import SMALL, status
from tests.support.ranks import on_ranks, train_here
from trainer.folder.load_run import load_run
from trainer.gan.state import find_non_finite
from trainer.gan.step import Metrics
from trainer.train.session import Session

BAD = 4
"""The step whose update is spoilt."""


def attempt(words: list[str], group: str = "", name: str = "", value: float = 0.0, act: str = "") -> tuple[int, str]:
    """Train on this rank; after step ``BAD``, set a number of a tensor (on the last rank) and do ``act``."""
    last = os.environ["RANK"] == str(int(os.environ["WORLD_SIZE"]) - 1)
    advance = Session.advance

    def spoil(self: Session, batches: Sequence[Any], *, report: bool) -> Metrics:
        metrics = advance(self, batches, report=report)
        if self.state.step == BAD:
            if group and last:
                with torch.no_grad():
                    tensor = self.state.tensors()[group][name]
                    tensor[(-1,) * tensor.dim()] = value
            if act == "STOP":
                self.outputs.folder.stop.touch()
            elif act == "data":
                for shard in range(len(self.dataset.manifest.shards)):
                    os.truncate(self.dataset.reader._storage.name(shard), 0)
            elif act:
                os.kill(os.getpid(), signal.Signals[act])
        return metrics

    Session.advance = spoil  # type: ignore[method-assign]  # this process ends after it
    return train_here(words)


def words(shards: Path, out: Path, *more: str) -> list[str]:
    return ["--data.shards", str(shards), "--out", str(out), "--data.workers", "0", *SMALL, "--checkpoint.keep", "1",
            "--checkpoint.every", "2", "--steps", "8", *more]  # fmt: skip


def check(out: Path, said: str, *wanted: str) -> None:
    """The one line, and a folder with the checkpoint of step 2 only."""
    assert said.count("error: ") == 1 and "Traceback" not in said, said
    line = said.partition("error: ")[2].strip()
    assert "\n" not in line and status(out) == {"state": "failed", "step": BAD, "position": 8 * BAD, "error": line}
    for word in (*wanted, f"stopped being finite by step {BAD}", "lower learning rate and another --out"):
        assert word in line
    assert [path.name for path in (out / "checkpoints").iterdir()] == ["step-000000002"]
    assert load_run(out).step == 2
    assert not (out / "samples" / f"step-{BAD:09d}.png").exists()


LATE = ("--checkpoint.every", "100")
"""A run that would not save at the spoilt step of itself."""


@pytest.fixture(scope="module")
def begun(faces32: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that has saved step 2."""
    out = tmp_path_factory.mktemp("begun") / "run"
    assert on_ranks(1, attempt, words(faces32, out, "--steps", "2"))[0][0] == 0
    return out


@pytest.mark.parametrize(
    ("group", "name", "value", "act", "more"),
    [
        ("generator", "blocks.3.0.bias", torch.nan, "", ()),
        ("generator", "blocks.0.0.weight", -torch.inf, "", ("--steps", "4")),
        ("discriminator", "blocks.0.0.weight", torch.nan, "STOP", LATE),
        ("discriminator", "blocks.1.0.bias", torch.inf, "SIGINT", LATE),
        ("average", "blocks.0.1.running_mean", torch.nan, "data", LATE),
        ("generator_optim", "blocks.0.0.weight.exp_avg_sq", torch.inf, "SIGTERM", ()),
        ("discriminator_optim", "blocks.0.0.bias.exp_avg", torch.nan, "", ("--samples.every", "4", *LATE)),
    ],
)  # fmt: skip
def test_nothing_is_saved_that_is_not_finite(
    faces32: Path, begun: Path, tmp_path: Path, group: str, name: str, value: float, act: str, more: tuple[str, ...]
) -> None:
    out, shards = tmp_path / "run", faces32
    if "100" in more:
        shutil.copytree(begun, out)
    if act == "data":
        shards = Path(shutil.copytree(faces32, tmp_path / "shards"))
    [(code, said)] = on_ranks(1, attempt, words(shards, out, *more), group, name, value, act)
    assert code == 2
    check(out, said, f"{group} ({name})")
    assert said.count("finite") == 1


def test_all_ranks_agree_on_what_one_of_them_has(faces32: Path, tmp_path: Path) -> None:
    """Rank 1's weights; and its own statistics, which are not compared and of which no checkpoint holds anything."""
    for name, more in (("blocks.0.0.weight", ()), ("blocks.0.1.running_var", ("--model.sync-bn", "false"))):
        out = tmp_path / name
        flags = words(faces32, out, *more)
        (code, said), (other, silence) = on_ranks(2, attempt, flags, "generator", name, torch.nan)
        assert code == other == 2 and "error" not in silence
        check(out, said, f"generator ({name})")


def test_a_rate_beyond_float32_diverges_in_the_only_step(faces32: Path, tmp_path: Path) -> None:
    """A real update: the losses are those before it."""
    flags = words(faces32, tmp_path, "--steps", "1", "--optim.lr-g", "1e39")
    [(code, said)] = on_ranks(1, attempt, flags)
    assert code == 2 and "generator (blocks.0.0.weight), average (blocks.0.0.weight) stopped being finite" in said
    assert not (tmp_path / "checkpoints").exists() and status(tmp_path)["state"] == "failed"
    assert not (tmp_path / "samples" / "step-000000001.png").exists()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_each_value_of_each_layout_is_looked_at(dtype: torch.dtype) -> None:
    whole = torch.full((3, 2, 4, 4), torch.finfo(dtype).max, dtype=dtype)
    whole[0] *= -1
    for layout in (whole, whole.to(memory_format=torch.channels_last), whole[:, :, ::2, 1:], whole.sum(), whole[:0]):
        assert not any(find_non_finite({"g": {"w": layout.clone(memory_format=torch.preserve_format)}}).values()) or (
            layout.dim() == 0
        )
    for value in (torch.nan, torch.inf, -torch.inf):
        for place in range(whole.numel()):
            spoilt = whole.to(memory_format=torch.channels_last).clone()
            spoilt.permute(0, 2, 3, 1).view(-1)[place] = value
            assert [bool(bad) for bad in find_non_finite({"g": {"w": spoilt, "n": torch.tensor(3)}}).values()] == [True]
