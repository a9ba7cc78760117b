from __future__ import annotations

import resource
import signal
import time
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from shards.common.errors import InputError
from tests.support.ranks import preloaded
from trainer.folder import checkpoint
from trainer.gan.state import Tensors

METADATA = {"step": 5, "position": 40}


def tensors(seed: int = 0, size: int = 64) -> dict[str, Tensors]:
    generator = torch.Generator().manual_seed(seed)
    return {
        "generator": {"weight": torch.randn(size, size, generator=generator), "count": torch.tensor(seed)},
        "generator_optim": {"weight.exp_avg": torch.randn(size, size, generator=generator)},
    }


def same(a: dict[str, Tensors], b: dict[str, Tensors]) -> bool:
    return a.keys() == b.keys() and all(
        a[name].keys() == b[name].keys() and all(torch.equal(a[name][key], b[name][key]) for key in a[name])
        for name in a
    )


def test_what_was_saved_comes_back(tmp_path: Path) -> None:
    path = checkpoint.save(tmp_path, 5, tensors(3), METADATA, keep=2)
    assert path.name == "step-000000005"
    loaded = checkpoint.load_newest(tmp_path)
    assert loaded is not None
    assert loaded[0] == path and same(loaded[1], tensors(3)) and loaded[2] == METADATA


def test_channels_last_weights_keep_their_values(tmp_path: Path) -> None:
    weight = torch.randn(4, 3, 5, 5).to(memory_format=torch.channels_last)
    checkpoint.save(tmp_path, 1, {"generator": {"weight": weight}}, METADATA, keep=1)
    loaded = checkpoint.load_newest(tmp_path)
    assert loaded is not None and torch.equal(loaded[1]["generator"]["weight"], weight)


def test_only_the_newest_are_kept(tmp_path: Path) -> None:
    for step in range(1, 6):
        checkpoint.save(tmp_path, step, tensors(step), METADATA, keep=2)
    assert [path.name for path in checkpoint.checkpoints(tmp_path)] == ["step-000000004", "step-000000005"]
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_a_torn_newer_one_never_counts_as_kept(tmp_path: Path) -> None:
    for step in (1, 2):
        checkpoint.save(tmp_path, step * 1000, tensors(step), METADATA, keep=9)
    (tmp_path / "step-000002000" / "state.json").unlink()
    with pytest.warns(UserWarning, match="damaged"):
        loaded = checkpoint.load_newest(tmp_path)
    assert loaded is not None and loaded[0].name == "step-000001000"
    checkpoint.save(tmp_path, 1600, tensors(3), METADATA, keep=1)
    with pytest.warns(UserWarning, match="damaged"):
        loaded = checkpoint.load_newest(tmp_path)
    assert loaded is not None and loaded[0].name == "step-000001600" and same(loaded[1], tensors(3))


@pytest.mark.parametrize("value", [torch.nan, -torch.inf])
def test_one_of_a_version_that_saved_diverged_trainings_is_skipped(value: float, tmp_path: Path) -> None:
    older = checkpoint.save(tmp_path, 1, tensors(1), METADATA, keep=2)
    diverged = tensors(2)
    diverged["generator_optim"] = {"weight.exp_avg": torch.full((2, 2), value)}
    newer = checkpoint.save(tmp_path, 2, diverged, METADATA, keep=2)
    with pytest.raises(
        checkpoint.TornCheckpoint, match=r"generator_optim.safetensors is not finite \(weight.exp_avg\)"
    ):
        checkpoint.load(newer)
    with pytest.warns(UserWarning, match="skipping a damaged checkpoint"):
        loaded = checkpoint.load_newest(tmp_path)
    assert loaded is not None and loaded[0] == older


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_any_flipped_byte_is_noticed(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    folder = tmp_path_factory.mktemp("torn")
    older = checkpoint.save(folder, 1, tensors(1, size=4), METADATA, keep=2)
    newer = checkpoint.save(folder, 2, tensors(2, size=4), METADATA, keep=2)
    victim = data.draw(st.sampled_from([*sorted(newer.glob("*.safetensors")), newer / "state.json"]))
    content = bytearray(victim.read_bytes())
    content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    victim.write_bytes(content)
    with pytest.warns(UserWarning, match="damaged"):
        loaded = checkpoint.load_newest(folder)
    assert loaded is not None and loaded[0] == older and same(loaded[1], tensors(1, size=4))


@pytest.mark.parametrize("victim", ["generator.safetensors", "state.json", "checksums.json"])
def test_a_missing_file_is_noticed(victim: str, tmp_path: Path) -> None:
    (checkpoint.save(tmp_path, 1, tensors(), METADATA, keep=1) / victim).unlink()
    with pytest.warns(UserWarning, match="damaged"), pytest.raises(InputError, match="All 1 checkpoints"):
        checkpoint.load_newest(tmp_path)


def test_checksums_that_list_nothing_are_torn(tmp_path: Path) -> None:
    path = checkpoint.save(tmp_path, 5, tensors(), METADATA, keep=2)
    (path / checkpoint.CHECKSUMS).write_text("{}")
    with pytest.raises(checkpoint.TornCheckpoint, match=r"does not list state\.json"):
        checkpoint.load(path)


def test_a_file_in_the_place_of_the_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").touch()
    with pytest.raises(InputError, match="checkpoints is not a folder"):
        checkpoint.load_newest(tmp_path / "checkpoints")


def test_an_unlisted_pickle_is_never_opened(tmp_path: Path) -> None:
    path = checkpoint.save(tmp_path, 1, tensors(), METADATA, keep=1)
    (path / "generator.pt").write_bytes(b"cos\nsystem\n(S'touch /tmp/owned'\ntR.")
    loaded = checkpoint.load_newest(tmp_path)
    assert loaded is not None and set(loaded[1]) == {"generator", "generator_optim"}


def test_a_write_that_the_system_refuses_leaves_the_last_one_whole(tmp_path: Path) -> None:
    """RLIMIT_FSIZE makes the kernel itself refuse the bytes, in the middle of a file."""
    checkpoint.save(tmp_path, 1, tensors(1), METADATA, keep=3)
    before, previous = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8192, before[1]))
    try:
        with pytest.raises(InputError, match=r"newest whole checkpoint is .*step-000000001"):
            checkpoint.save(tmp_path, 2, tensors(2, size=512), METADATA, keep=1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, previous)
    assert [path.name for path in tmp_path.iterdir()] == ["step-000000001"]
    loaded = checkpoint.load_newest(tmp_path)
    assert loaded is not None and same(loaded[1], tensors(1))


def save_forever(folder: Path) -> None:
    for step in range(1, 100_000):
        weight: dict[str, Tensors] = {"generator": {"weight": torch.full((512, 512), float(step))}}
        checkpoint.save(folder, step, weight, {"step": step}, keep=2)


def test_killed_while_writing_the_newest_is_whole(tmp_path: Path) -> None:
    for number, delay in enumerate((0.0, 0.013, 0.031)):
        folder = tmp_path / str(number)
        process = preloaded().Process(target=save_forever, args=(folder,))
        process.start()
        try:
            while not (folder / f"step-{3:09d}").exists():
                assert process.is_alive()
                time.sleep(0.001)
            time.sleep(delay)
        finally:
            process.kill()
            process.join()
        loaded = checkpoint.load_newest(folder)
        assert loaded is not None
        assert torch.equal(loaded[1]["generator"]["weight"], torch.full((512, 512), float(loaded[2]["step"])))
