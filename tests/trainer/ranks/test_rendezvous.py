from __future__ import annotations

import json
import os
import platform
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path

import pytest
from torch.distributed import TCPStore  # type: ignore[attr-defined]

from shards.building.build import build
from shards.building.recipe import Options
from shards.common.errors import InputError
from shards.sources.faces import Faces
from tests.support.launching import SMALL, run, status
from tests.support.ranks import on_ranks, train_here
from trainer.errors import SharedInputError
from trainer.ranks import rendezvous
from trainer.ranks.launch import Launch, read_launch
from trainer.ranks.rendezvous import Report, compare_ranks, connect_store, explain_failure, find_difference

VALUES = {"data set": "abc", "seed": "0"}


def report(rank: int, error: str | None = None, **values: str) -> Report:
    return Report(rank, f"n{rank // 2}", error, {**VALUES, **values})


def test_equal_reports_agree() -> None:
    assert find_difference([report(rank) for rank in range(4)]) is None


def test_an_error_of_all_ranks_names_none() -> None:
    assert find_difference([report(rank, "No shards at x.") for rank in range(4)]) == "No shards at x."


def test_an_error_of_some_ranks_names_the_first() -> None:
    reports = [report(0), report(1), report(2, "No shards at x."), report(3, "No shards at x.")]
    assert find_difference(reports) == "Rank 2 on n1 (and 1 more ranks): No shards at x."
    assert find_difference(reports[:3]) == "Rank 2 on n1: No shards at x."


def test_a_difference_is_named_with_both_values() -> None:
    message = find_difference([report(0), report(1), report(2, seed="7")])
    assert message is not None
    assert message.startswith("Rank 2 on n1 does not fit rank 0 on n0:\n  seed: 0 there, 7 here\n")
    assert "data set" not in message


def without_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rank 0 opens the store."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        monkeypatch.setenv("MASTER_PORT", str(probe.getsockname()[1]))
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")


def on_threads(monkeypatch: pytest.MonkeyPatch, *errors: str | None) -> list[str]:
    """Each rank's result, in a thread of its own, over a real store."""
    without_launcher(monkeypatch)

    def one(rank: int) -> str:
        def examine() -> tuple[str, dict[str, str]]:
            if error := errors[rank]:
                raise InputError(error)
            return f"found by {rank}", VALUES

        try:
            return compare_ranks(Launch(rank, len(errors), len(errors), True, "no"), examine)
        except InputError as error:
            return str(error)

    with ThreadPoolExecutor(len(errors)) as threads:
        return [*threads.map(one, range(len(errors)))]


def test_ranks_that_agree_get_what_they_found(monkeypatch: pytest.MonkeyPatch) -> None:
    assert on_threads(monkeypatch, None, None, None) == ["found by 0", "found by 1", "found by 2"]


def test_an_error_of_one_rank_is_raised_on_all(monkeypatch: pytest.MonkeyPatch) -> None:
    assert on_threads(monkeypatch, None, "no shards", None) == 3 * [f"Rank 1 on {platform.node()}: no shards"]


def test_rank_0_keeps_its_store_for_ranks_that_are_ahead_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of them connects several times, and may do so before rank 0 does."""
    without_launcher(monkeypatch)
    with ThreadPoolExecutor(2) as threads:
        stores = [*threads.map(lambda rank: connect_store(Launch(rank, 2, 2, True, "no")), (0, 1))]
    ahead = stores.pop()
    stores.clear()
    ahead.set("key", "value")
    again = connect_store(Launch(0, 2, 2, True, "no"))
    assert again.get("key") == b"value"


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> TCPStore:
    """The store of three impatient ranks, of which one at a time calls :func:`refused`."""
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    monkeypatch.setattr(rendezvous, "connect_store", lambda _: store)
    for name in ("TIMEOUT", "MARGIN"):
        monkeypatch.setattr(rendezvous, name, timedelta(seconds=0.1))
    for rank in (0, 1, 2):
        store.set(f"reports/received/{rank}", "")
    return store


def refused(rank: int, error: str | None = None) -> InputError:
    def examine() -> tuple[int, dict[str, str]]:
        if error:
            raise InputError(error)
        return 7, VALUES

    with pytest.raises(InputError) as caught:
        compare_ranks(Launch(rank, 3, 3, True, "no"), examine)
    return caught.value


def test_a_rank_that_does_not_report_is_named_on_all(store: TCPStore) -> None:
    store.set("reports/report/2", json.dumps(asdict(report(2))))
    missing = "Ranks [1] did not report within 0:00:00.100000. Look at their logs."
    for rank in (0, 1, 2):  # rank 1 comes late, and then all reports are there
        error = refused(rank)
        assert isinstance(error, SharedInputError) and str(error) == missing


@pytest.mark.usefixtures("store")
def test_an_error_is_named_though_another_rank_is_missing() -> None:
    """Also where rank 0 is the one: then each rank's own error, because nobody may print a shared one."""
    missing = "Rank 0 gave no verdict within 0:00:00.200000. Look at its log."
    for rank, own in ((1, "No shards at x."), (2, None)):
        error = refused(rank, own)
        assert not isinstance(error, SharedInputError) and str(error) == (own or missing)
    assert str(refused(0)) == missing, "rank 0 must not go on with ranks that gave up"


def test_errors_and_missing_ranks_are_both_named(store: TCPStore) -> None:
    store.set("reports/report/2", json.dumps(asdict(report(2, "No shards at x."))))
    assert str(refused(0)).splitlines() == [
        "Rank 2 on n1: No shards at x.",
        "Ranks [1] did not report within 0:00:00.100000. Look at their logs.",
    ]


def test_one_rank_needs_no_store() -> None:
    launch = Launch(0, 1, 1, True, "no")
    assert compare_ranks(launch, lambda: (7, VALUES)) == 7

    def fail() -> tuple[int, dict[str, str]]:
        raise InputError("no shards")

    with pytest.raises(InputError, match=r"^no shards$"):
        compare_ranks(launch, fail)


def train_on(words: list[str], other: str) -> tuple[int, str]:
    """With the shards ``other`` on rank 1."""
    return train_here([*words, *(["--data.shards", other] if os.environ["RANK"] == "1" else [])])


@pytest.mark.parametrize("other", ["other", "none"])
def test_a_node_with_other_data_or_none_is_named_once(faces32: Path, tmp_path: Path, other: str) -> None:
    """Rank 1 stands for another node, on which the same path holds other data or none."""
    if other == "other":
        build(Faces(60), tmp_path / "other", Options(size=32, shard_samples=30, seed=1))
    words = ["--data.shards", str(faces32), "--out", str(tmp_path / "run"), "--steps", "2", *SMALL]
    (code, said), (other_code, more) = on_ranks(2, train_on, words, str(tmp_path / other))
    assert code != 0 and other_code != 0
    said += more
    assert said.count("error: ") == 1, said
    where = f"error: Rank 1 on {platform.node()}"
    assert where + (": No shards at" if other == "none" else " does not fit rank 0") in said
    assert "Traceback" not in said
    assert not (tmp_path / "run").exists()


def test_a_launcher_that_starts_fewer_ranks_is_an_error(faces32: Path, tmp_path: Path) -> None:
    flags = ["--data.shards", str(faces32), "--out", str(tmp_path / "run"), "--steps", "2", *SMALL]
    done = run(*flags, launcher=("--cpu", "--num_processes", "2"))
    assert done.returncode != 0
    assert "error: The launcher was asked for 2 ranks and started 1" in done.stderr
    assert "ACCELERATE_USE_CPU=true accelerate launch --multi_gpu --num_processes N" in done.stderr


LOST = RuntimeError("Connection closed by peer")


def fail() -> list[str]:
    """Rank 1 fails, and rank 0 loses its connection and then meets an error of its own."""
    launch = read_launch()
    store = connect_store(launch)  # rank 0 holds the store, where the launcher would
    if launch.rank:
        first = explain_failure(InputError("größer als erlaubt"), launch, 3)
        store.set("failed", "")
        store.wait(["read"])
        store.set("done", "")
        return [first]
    store.wait(["failed"])
    causes = [explain_failure(error, launch, 3) for error in (LOST, InputError("a consequence"))]
    store.set("read", "")
    store.wait(["done"])
    return causes


def test_the_first_cause_stands() -> None:
    (cause, first), (own,) = on_ranks(2, fail)
    assert cause == first and cause.startswith("Rank 1 on ") and cause.endswith(": größer als erlaubt")
    assert own == "größer als erlaubt"


def test_one_rank_reports_to_nobody() -> None:
    assert explain_failure(ValueError("why"), Launch(0, 1, 1, True, "no"), 3) == "why"


def test_a_store_that_is_gone_holds_nobody_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rendezvous, "STORE_TIMEOUT", timedelta(seconds=0.5))
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", "9")
    monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", "True")  # rank 0 does not hold the store
    start = time.monotonic()
    assert explain_failure(ValueError("why"), Launch(1, 2, 2, True, "no"), 3) == "why"
    assert explain_failure(LOST, Launch(0, 2, 2, True, "no"), 3).startswith("Another rank was lost after step 3;")
    assert time.monotonic() - start < 5


def test_a_failure_before_the_first_step_is_in_the_status_too(faces32: Path, tmp_path: Path) -> None:
    (tmp_path / "run" / "bad-rank-0.jsonl").mkdir(parents=True)
    failed = run("--data.shards", str(faces32), "--steps", "2", "--out", str(tmp_path / "run"), *SMALL)
    assert failed.returncode != 0
    final = status(tmp_path / "run")
    assert (final["state"], final["step"]) == ("failed", 0) and "bad-rank-0.jsonl" in final["error"]
