"""``python -m trainer.evaluate`` on a real run: its table, what it keeps, and which checkpoint is the best."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from shards.common.errors import InputError
from tests.support.launching import SMALL, run, status
from tests.support.make import make_shards
from trainer.cli import conclude
from trainer.evaluate import __main__ as main
from trainer.evaluate import evaluation
from trainer.evaluate.__main__ import Evaluate, evaluate
from trainer.folder.checkpoint import CHECKSUMS, checkpoint_name, remove
from trainer.folder.load_run import load_run
from trainer.folder.run_folder import RunFolder
from trainer.folder.score_log import append_scores, read_scores

PIXELS = ("swd-32", "swd-16", "swd", "ms-ssim", "ms-ssim-real")


@pytest.fixture(scope="module")
def trained(faces32: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoints at steps 2 and 4."""
    out = tmp_path_factory.mktemp("evaluate") / "run"
    cache = out.parent / "cache"
    done = run("faces", *SMALL, "--data.shards", str(faces32), "--out", str(out), "--steps", "4",
               "--checkpoint.every", "2", "--data.workers", "0", "--data.cache", str(cache))  # fmt: skip
    assert done.returncode == 0, done.stderr
    return out


@pytest.fixture
def scored(trained: Path) -> Path:
    evaluate(Evaluate(trained, checkpoint="all", features="pixels", samples=128))
    return trained


def test_all_checkpoints_are_scored_once(scored: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results = read_scores(scored / "scores.jsonl")
    found = [(result.step, result.features, result.samples) for result in results]
    assert found == [(2, "pixels", 128), (4, "pixels", 128)]
    assert tuple(results[0].scores) == PIXELS
    capsys.readouterr()
    evaluate(Evaluate(scored, checkpoint="all", features="pixels", samples=128, json=True))
    assert read_scores(scored / "scores.jsonl") == results
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["scores"] for row in rows] == [result.scores for result in results]


def test_the_table_has_a_column_for_each_checkpoint(scored: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    evaluate(Evaluate(scored, checkpoint="all", features="pixels", samples=128))
    head, *lines = capsys.readouterr().out.splitlines()
    assert head.split() == ["step-000000002", "step-000000004"]
    assert [line.split()[0] for line in lines] == list(PIXELS)


def test_the_reals_are_described_once(scored: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def read_again(*_: object) -> None:
        raise AssertionError("the real images were read again")

    monkeypatch.setattr(evaluation, "real", read_again)
    (scored / "scores.jsonl").unlink()
    evaluate(Evaluate(scored, features="pixels", samples=128))
    assert len(read_scores(scored / "scores.jsonl")) == 1


def test_the_best_checkpoint_has_the_lowest_score(scored: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results = read_scores(scored / "scores.jsonl")
    lowest = min(results, key=lambda result: result.scores["swd"])
    assert load_run(scored, Path("best")).checkpoint.name == lowest.checkpoint
    assert f"Using {lowest.checkpoint}, the best by swd" in capsys.readouterr().err


def test_watching_an_ended_run_scores_what_it_has(trained: Path) -> None:
    (trained / "scores.jsonl").unlink(missing_ok=True)
    evaluate(Evaluate(trained, features="pixels", samples=128, watch=True))
    assert {result.step for result in read_scores(trained / "scores.jsonl")} == {2, 4}


def test_watching_scores_what_is_written_again_and_misses_what_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A training that goes back writes a step twice, and one that goes on removes old checkpoints."""
    folder, seen = RunFolder(tmp_path), list[str]()

    def write(step: int, content: str) -> None:
        path = folder.checkpoints / checkpoint_name(step)
        path.mkdir(parents=True, exist_ok=True)
        (path / CHECKSUMS).write_text(content)

    def score(path: Path) -> None:
        seen.append((path / CHECKSUMS).read_text())
        if seen == ["2a"]:
            write(2, "2b")
            remove(folder.checkpoints / checkpoint_name(4))
            folder.write_status("done", 8, 64)
        if seen[-1] == "6a":
            remove(path)
            raise InputError("torn")

    for step in (2, 4, 6, 8):
        write(step, f"{step}a")
    folder.write_status("running", 8, 64)
    monkeypatch.setattr(main, "read_status", lambda path: SimpleNamespace(**status(path)))  # no process trains here
    monkeypatch.setattr(main, "PAUSE", 0.01)
    main.watch(folder, score)
    assert seen == ["2a", "6a", "8a", "2b"] and not list(folder.checkpoints.glob(".*"))


def test_a_run_without_scores_has_no_best(trained: Path) -> None:
    (trained / "scores.jsonl").unlink(missing_ok=True)
    with pytest.raises(InputError, match="no scored checkpoint"):
        load_run(trained, Path("best"))


def test_a_torn_last_line_is_skipped_and_garbage_is_named(scored: Path) -> None:
    path = scored / "scores.jsonl"
    whole = read_scores(path)
    path.write_bytes(path.read_bytes()[:-10])
    assert read_scores(path) == whole[:-1]
    append_scores(path, whole[-1:])
    assert read_scores(path) == whole
    path.write_text("{}\n")
    with pytest.raises(InputError, match="does not hold results"):
        read_scores(path)
    path.unlink()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"features": "lite1"}, "--features lite1: give one or more of lite0, inception, labels, pixels."),
        ({"features": ","}, "--features ,: give one or more"),
        ({"samples": 10}, "--samples is 10; it must be at least 100."),
        ({"features": "inception"}, "needs the weights of the FID network"),
        ({"checkpoint": "step-9"}, "is no checkpoint of"),
    ],
)
def test_bad_options_are_one_line(
    trained: Path, options: dict[str, object], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert conclude(lambda: evaluate(Evaluate(trained, **{"features": "pixels", **options}))) == 2  # type: ignore[arg-type]
    error = capsys.readouterr().err
    assert message in error and error.count("error: ") == 1


def test_weights_of_another_network_are_refused(trained: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.pth"
    other.write_bytes(b"weights")
    with pytest.raises(InputError, match="not the file pt_inception"):
        evaluate(Evaluate(trained, features="inception", weights=other))


def test_images_of_another_shape_are_refused(trained: Path, tmp_path: Path) -> None:
    make_shards(tmp_path / "grey", channels=1)
    with pytest.raises(InputError, match="the run makes images of 32x32x3"):
        evaluate(Evaluate(trained, features="pixels", shards=str(tmp_path / "grey")))


def test_labels_need_labels(trained: Path) -> None:
    with pytest.raises(InputError, match="labels"):
        evaluate(Evaluate(trained, features="labels"))


def test_a_run_without_checkpoints_says_so(trained: Path, tmp_path: Path) -> None:
    shutil.copytree(trained, tmp_path / "run", ignore=shutil.ignore_patterns("checkpoints"))
    for checkpoint in ("newest", "all"):
        with pytest.raises(InputError, match="has no checkpoint yet"):
            evaluate(Evaluate(tmp_path / "run", checkpoint=checkpoint, features="pixels"))


def test_a_few_images_are_no_sample(trained: Path, tmp_path: Path) -> None:
    make_shards(tmp_path / "few", channels=3, samples=9)
    with pytest.raises(InputError, match="There are 9 real images; scores need at least 10"):
        evaluate(Evaluate(trained, features="pixels", shards=str(tmp_path / "few")))
    make_shards(tmp_path / "enough", channels=3, samples=10)
    evaluate(Evaluate(trained, samples=100, shards=str(tmp_path / "enough")))  # of both kinds
    (trained / "scores.jsonl").unlink()


def test_fewer_reals_than_asked_for_are_counted(trained: Path, tmp_path: Path) -> None:
    make_shards(tmp_path / "few", channels=3, samples=40)
    evaluate(Evaluate(trained, features="lite0", samples=100, shards=str(tmp_path / "few")))
    (result,) = read_scores(trained / "scores.jsonl")
    assert (result.reals, result.samples) == (40, 100)
    assert set(result.scores) == {
        f"{name}-lite0" for name in ("fd", "kd", "precision", "recall", "density", "coverage")
    }
    (trained / "scores.jsonl").unlink()
