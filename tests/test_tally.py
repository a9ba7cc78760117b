from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from shards.errors import InputError
from shards.reader import Bad
from tests.launching import SMALL, rows, run, status
from tests.make import key, make_shards, reindex
from trainer.tally import Tally, check_share

BAD = Bad(7, "a.tar", "000000007", 512, "broken")


def test_every_bad_sample_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tally = Tally(tmp_path / "bad.jsonl")
    assert not list(tmp_path.iterdir())
    tally.add((BAD, BAD), step=3)
    tally.close()
    assert tally.count == 2
    assert capsys.readouterr().err.count("'000000007' of a.tar, at byte 512, does not decode: broken") == 2
    assert [(row["step"], row["key"], row["offset"]) for row in rows(tmp_path / "bad.jsonl")] == [
        (3, "000000007", 512)
    ] * 2


@pytest.mark.parametrize(("bad", "consumed", "fine"), [(0, 0, True), (2, 10, True), (3, 10, False), (3, 3000, True)])
def test_the_share_is_one_of_an_epoch_or_of_what_was_consumed(bad: int, consumed: int, fine: bool) -> None:
    if fine:
        check_share(bad, consumed, samples=2000, most=0.001)
    else:
        with pytest.raises(InputError, match=r"3 samples did not decode, more than --data.max-bad 0.001 of 2,000"):
            check_share(bad, consumed, samples=2000, most=0.001)


@pytest.fixture
def one_broken(tmp_path: Path) -> Path:
    """Sample 27 of 50 does not decode, and did not when it was indexed."""
    manifest = make_shards(tmp_path / "shards", samples=50, channels=3)
    offset = int(np.load(tmp_path / "shards" / "index.npy")[27]["offset"])
    with (tmp_path / "shards" / manifest.shards[1].name).open("rb+") as file:
        file.seek(offset)
        file.write(bytes(64))
    reindex(tmp_path / "shards", manifest)
    return tmp_path / "shards"


def flags(shards: Path, out: Path, *more: str) -> list[str]:
    return ["--data.shards", str(shards), "--out", str(out), "--steps", "14", *SMALL, *more]


def test_a_run_goes_on_past_one_bad_sample_and_says_so(one_broken: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    done = run(*flags(one_broken, out, "--data.max-bad", "0.03", "--data.audit", str(out / "audit")))
    assert done.returncode == 0, done.stderr
    assert done.stderr.count(f"warning: The sample '{key(27)}' of") == len(rows(out / "bad-rank-0.jsonl")) > 1
    assert rows(out / "metrics.jsonl")[-1]["data/replaced"] == len(rows(out / "bad-rank-0.jsonl"))
    trained = [name for row in rows(out / "audit" / "rank-0.jsonl") for name in row["keys"]]
    assert len(trained) == 14 * 8 and key(27) not in trained


def test_a_run_stops_where_too_many_are_bad_or_one_is_too_many(one_broken: Path, tmp_path: Path) -> None:
    many = run(*flags(one_broken, tmp_path / "many"))
    assert many.returncode == 2 and "error: 1 samples did not decode, more than --data.max-bad 0.001" in many.stderr
    assert status(tmp_path / "many")["state"] == "failed"
    strict = run(*flags(one_broken, tmp_path / "strict", "--data.strict"))
    assert strict.returncode == 2 and f"error: The sample '{key(27)}' of" in strict.stderr
    assert "does not decode" in strict.stderr
    step = status(tmp_path / "strict")["step"]
    assert step > 0 and (tmp_path / "strict" / "checkpoints" / f"step-{step:09d}").exists()
