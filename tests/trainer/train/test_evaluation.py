"""Scores during training: where they go, which checkpoint they keep, and that ranks share the work."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from shards.common.errors import InputError
from tests.support.launching import SMALL, run, status
from tests.support.make import make_shards
from tests.support.ranks import on_ranks, train_here
from trainer.config import Config, Data, Evaluation, Model
from trainer.evaluate.__main__ import Evaluate, evaluate
from trainer.evaluate.evaluation import describe_subject, generated
from trainer.folder import checkpoint
from trainer.folder.run_folder import RunFolder
from trainer.folder.score_log import append_scores, best, read_scores
from trainer.folder.start_log import read_starts
from trainer.gan.state import create_state
from trainer.ranks.launch import read_launch
from trainer.ranks.process_group import create_accelerator
from trainer.status.__main__ import main
from trainer.train import evaluation as train_evaluation
from trainer.train import products, session
from trainer.train.evaluation import create_evaluation, feature_names, open_reals

STEPS = (2, 4, 6, 8)


@pytest.fixture(scope="module")
def trained(faces32: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Evaluated every second step, with one checkpoint to keep, and resumed once."""
    out = tmp_path_factory.mktemp("evaluated") / "run"
    flags = ["faces", *SMALL, "--data.shards", str(faces32), "--out", str(out), "--data.workers", "0",
             "--data.cache", str(out.parent / "cache"), "--checkpoint.keep", "1", "--evaluate.every", "2",
             "--evaluate.samples", "100", "--evaluate.features", "pixels"]  # fmt: skip
    for steps in ("4", "8"):
        done = run(*flags, "--steps", steps)
        assert done.returncode == 0, done.stderr
    assert "\nstep 8: scoring 100 images\nscores of step 8: swd-32 " in done.stderr
    return out


def test_every_evaluation_is_kept_once(trained: Path) -> None:
    results = read_scores(trained / "scores.jsonl")
    assert tuple(result.step for result in results) == STEPS
    rows = [json.loads(line) for line in (trained / "metrics.jsonl").read_text().splitlines()]
    shown = {row["step"]: row["evaluation/swd"] for row in rows if "evaluation/swd" in row}
    assert shown == {result.step: result.scores["swd"] for result in results}


def test_each_start_says_where_it_was_made(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    starts = read_starts(trained / "environment.jsonl")
    assert [start["step"] for start in starts] == [0, 4]
    assert {"time", "ranks", "hosts", "devices", "precision", "python", "torch", "accelerate", "code.commit"} - {
        *starts[0]} <= {"code.commit"} and "run.py faces --batch-size 8 " in starts[0]["command"]  # fmt: skip
    assert main([str(trained)]) == 0
    assert "  environment 1 rank on " in capsys.readouterr().out


def test_a_kill_before_the_last_evaluation_is_made_up_for(faces32: Path, trained: Path, tmp_path: Path) -> None:
    """Such a kill leaves a status of a running training, and no scores of its last checkpoint."""
    copy, whole = tmp_path / "run", read_scores(trained / "scores.jsonl")
    shutil.copytree(trained, copy)
    (copy / "scores.jsonl").unlink()
    append_scores(copy / "scores.jsonl", whole[:-1])
    words = ["faces", *SMALL, "--data.shards", str(faces32), "--out", str(copy), "--data.workers", "0", "--steps", "8",
             "--evaluate.samples", "100", "--evaluate.features", "pixels"]  # fmt: skip
    assert "Done already" in run(*words).stderr  # the run had ended
    RunFolder(copy).write_status("running", 8, 64)
    assert "scores of step 8" in run(*words).stderr
    assert read_scores(copy / "scores.jsonl") == whole and status(copy)["state"] == "done"
    assert (copy / "evaluation.png").exists()


def test_the_best_checkpoint_is_kept_beside_the_newest(trained: Path) -> None:
    results = read_scores(trained / "scores.jsonl")
    found, before = best(results), best(results[:-1])  # the last checkpoint is published before it is scored
    assert found is not None and before is not None
    kept = {path.name for path in (trained / "checkpoints").iterdir()}
    assert kept == {found[1].checkpoint, before[1].checkpoint, "step-000000008"}


def test_the_best_checkpoint_outlives_the_file_of_scores(faces32: Path, trained: Path, tmp_path: Path) -> None:
    out, newest = tmp_path / "run", Path("checkpoints", "step-000000008", "state.json")
    shutil.copytree(trained, out)
    (out / "scores.jsonl").write_text("damaged\n")
    known = json.loads((out / newest).read_text())["best"]
    results = read_scores(trained / "scores.jsonl")[:-1]  # the last checkpoint is published before it is scored
    assert known["value"] == min(result.scores[known["judge"]] for result in results)
    done = run("faces", *SMALL, "--data.shards", str(faces32), "--out", str(out), "--data.workers", "0",
               "--checkpoint.keep", "1", "--checkpoint.every", "2", "--steps", "12")  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert {path.name for path in (out / "checkpoints").iterdir()} == {known["checkpoint"], "step-000000012"}
    assert json.loads((out / "checkpoints" / "step-000000012" / "state.json").read_text())["best"] == known


def test_the_best_checkpoint_outlives_another_number_of_images(faces32: Path, trained: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    shutil.copytree(trained, out)
    found = best(read_scores(out / "scores.jsonl"))
    done = run("faces", *SMALL, "--data.shards", str(faces32), "--out", str(out), "--data.workers", "0",
               "--checkpoint.keep", "1", "--evaluate.every", "1", "--evaluate.samples", "120",
               "--evaluate.features", "pixels", "--steps", "13")  # fmt: skip
    assert done.returncode == 0, done.stderr
    later = best(each for each in read_scores(out / "scores.jsonl") if each.samples == 120 and each.step < 13)
    assert found is not None and later is not None
    assert {path.name for path in (out / "checkpoints").iterdir()} >= {found[1].checkpoint, later[1].checkpoint}
    assert len(list((out / "checkpoints").iterdir())) <= 4


def test_the_command_gives_the_same_scores(trained: Path) -> None:
    before = read_scores(trained / "scores.jsonl")
    evaluate(Evaluate(trained, features="pixels", samples=100))
    assert read_scores(trained / "scores.jsonl") == before  # known, as it asks the same
    (trained / "scores.jsonl").rename(trained / "scores.before")
    evaluate(Evaluate(trained, features="pixels", samples=100))
    (again,) = read_scores(trained / "scores.jsonl")
    (trained / "scores.before").rename(trained / "scores.jsonl")
    assert again.key == before[-1].key
    assert again.scores == pytest.approx(before[-1].scores, rel=1e-6)


def train_with_stops(words: list[str], stop: int) -> tuple[int, str]:
    """Train on this rank. In the evaluation of step ``stop``, the file STOP appears."""
    describe_before = session.describe_subject

    def describe_and_stop(step: int, *more: Any, **facts: Any) -> Any:
        if step == stop:
            Path(words[words.index("--out") + 1], "STOP").touch()
        return describe_before(step, *more, **facts)

    session.describe_subject = describe_and_stop  # this process ends after it
    return train_here(words)


@pytest.mark.parametrize("ranks", [1, 2])
def test_an_evaluation_that_is_stopped_is_made_up_for(faces32: Path, tmp_path: Path, ranks: int) -> None:
    def train(name: str, stop: int = -1) -> tuple[str, list[int]]:
        words = ["--data.shards", str(faces32), "--out", str(tmp_path / name), "--data.workers", "0", *SMALL,
                 "--steps", "4", "--evaluate.every", "2", "--evaluate.samples", "100",
                 "--evaluate.features", "pixels", "--data.cache", str(tmp_path / "cache")]  # fmt: skip
        results = on_ranks(ranks, train_with_stops, words, stop)
        assert [code for code, _ in results] == [0] * ranks, results
        return results[0][1], [result.step for result in read_scores(tmp_path / name / "scores.jsonl")]

    said, steps = train("stopped", 2)
    assert status(tmp_path / "stopped") == {"state": "preempted", "step": 2, "position": 16} and steps == []
    assert said.count("Stopped at step 2 because of ") == 1
    assert train("stopped", 4)[1] == [2]
    assert status(tmp_path / "stopped") == {"state": "preempted", "step": 4, "position": 32}
    said, steps = train("stopped")
    assert steps == [2, 4] and status(tmp_path / "stopped")["state"] == "done" and "scores of step 4" in said
    assert "Done already" in train("stopped")[0]
    if ranks == 1:
        train("whole")
        assert read_scores(tmp_path / "stopped" / "scores.jsonl") == read_scores(tmp_path / "whole" / "scores.jsonl")


def scores_here(shards: str, cache: str, threads: int = 1) -> dict[str, float]:
    """The scores of an untrained generator on this rank."""
    torch.set_num_threads(threads)
    config = Config(data=Data(shards=shards, cache=Path(cache)), model=Model(features_g=4, features_d=4, z_dim=8),
                    evaluate=Evaluation(samples=150))  # fmt: skip
    accelerator = create_accelerator(config, read_launch(), "no")
    reals = open_reals(config, 200)
    evaluator = create_evaluation(config, accelerator, reals)
    assert evaluator is not None
    generator = create_state(config, 32, 3, accelerator.device).average
    subject = describe_subject(0, 0, generator, averaged=True)
    results = evaluator.score(subject, generated(generator, config.seed, reals))
    evaluator.dataset.reader.close()
    return {name: value for result in results for name, value in result.scores.items()}


def test_any_number_of_ranks_gives_the_same_scores(faces32: Path, tmp_path: Path) -> None:
    """150 images are three chunks, so that some ranks of four describe images that are dropped."""
    (alone,) = on_ranks(1, scores_here, str(faces32), str(tmp_path / "1"))
    assert {"kd-lite0", "swd-32", "ms-ssim"} <= alone.keys()
    for ranks in (2, 4):
        results: list[dict[str, Any]] = on_ranks(ranks, scores_here, str(faces32), str(tmp_path / str(ranks)))
        assert results == [pytest.approx(alone, rel=1e-6, abs=1e-9)] * ranks
    (cached,) = on_ranks(1, scores_here, str(faces32), str(tmp_path / "2"))
    assert cached == pytest.approx(alone, rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("ranks", [1, 2])
def test_scores_are_those_of_the_checkpoint_and_change_no_weight(faces32: Path, tmp_path: Path, ranks: int) -> None:
    """Without averaged weights, with bf16 where a CPU has it, and with other statistics on each rank."""

    def train(name: str, *more: str) -> dict[str, dict[str, torch.Tensor]]:
        words = ["--data.shards", str(faces32), "--out", str(tmp_path / name), "--data.workers", "0", *SMALL,
                 "--steps", "4", "--ema-images", "0", "--model.sync-bn", "false", "--data.cache",
                 str(tmp_path / "cache"), "--evaluate.features", "pixels", *more]  # fmt: skip
        assert [code for code, _ in on_ranks(ranks, train_in_bf16, words)] == [0] * ranks
        return checkpoint.load(tmp_path / name / "checkpoints" / "step-000000004")[0]

    scored = train("scored", "--evaluate.every", "1", "--evaluate.samples", "100")
    plain = train("plain", "--evaluate.samples", "0")
    assert all(torch.equal(scored[group][name], plain[group][name]) for group in plain for name in plain[group])
    last = read_scores(tmp_path / "scored" / "scores.jsonl")[-1]
    (tmp_path / "scored" / "scores.jsonl").unlink()
    evaluate(Evaluate(tmp_path / "scored", features="pixels", samples=100))
    (again,) = read_scores(tmp_path / "scored" / "scores.jsonl")
    assert again.key == last.key and last.weights == "current"
    assert again.scores == pytest.approx(last.scores, rel=1e-6)


def train_in_bf16(words: list[str]) -> tuple[int, str]:
    os.environ["ACCELERATE_MIXED_PRECISION"] = "bf16"  # this process ends after it
    products.measure = lambda *_: {}  # two runs that measure may choose differently
    return train_here(words)


def test_a_judge_needs_its_features() -> None:
    assert feature_names(Evaluation()) == ("lite0", "pixels")
    assert feature_names(Evaluation(features="pixels")) == ("pixels",)
    with pytest.raises(InputError, match=r"--evaluate\.by kd-lite0 needs"):
        feature_names(Evaluation(features="pixels", by="kd-lite0"))


def start_bare(words: list[str]) -> tuple[int, str]:
    """Train on this rank; the second one lacks the extra ``scores``."""
    if os.environ["RANK"] == "1":
        train_evaluation.find_spec = lambda _: None  # this process ends after it
    return train_here(words)


def test_ranks_that_would_compute_other_scores_do_not_start(faces32: Path, tmp_path: Path) -> None:
    words = ["--data.shards", str(faces32), "--out", str(tmp_path / "run"), "--data.workers", "0", *SMALL, "--steps",
             "2", "--evaluate.every", "2"]  # fmt: skip
    results = on_ranks(2, start_bare, [*words, "--evaluate.samples", "100"])
    assert [code for code, _ in results] == [2, 2], results
    assert "\n  features of the scores: lite0, pixels there, pixels here\n" in results[0][1]
    assert [code for code, _ in on_ranks(2, start_bare, words)] == [0, 0]  # which has no evaluation


def test_few_images_and_a_node_without_a_cache_are_no_error(tmp_path: Path) -> None:
    make_shards(tmp_path / "few", samples=8, channels=3)
    make_shards(tmp_path / "enough", samples=10, channels=3)
    (tmp_path / "file").touch()
    flags = [
        *SMALL,
        "--steps",
        "1",
        "--data.workers",
        "0",
        "--evaluate.samples",
        "100",
        "--evaluate.features",
        "pixels",
    ]
    for name in ("few", "enough"):
        out = tmp_path / "run" / name
        done = run("faces", *flags, "--data.shards", str(tmp_path / name), "--out", str(out),
                   "--data.cache", str(tmp_path / "file" / "cache"))  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert (out / "scores.jsonl").exists() == (name == "enough")


def test_damaged_journals_do_not_keep_a_run_from_its_training(faces32: Path, trained: Path, tmp_path: Path) -> None:
    """Their lines are named once and stay in the file; the board gets the others."""
    out = tmp_path / "run"
    shutil.copytree(trained, out)
    whole = (out / "scores.jsonl").read_text()
    damaged = {
        "scores.jsonl": f"{{}}\n{whole}damaged\n",
        "rollbacks.jsonl": '{"step": 2}\n',
        "environment.jsonl": f"{(out / 'environment.jsonl').read_text()}damaged",
    }
    for name, text in damaged.items():
        (out / name).write_text(text)
    with (out / "metrics.jsonl").open("a") as file:
        file.write('damaged\n{"step": 1, "images": 8, "loss/d": "low"}\n')
    (out / "samples" / "step-000000999.png").touch()
    done = run("faces", *SMALL, "--data.shards", str(faces32), "--out", str(out), "--data.workers", "0",
               "--data.cache", str(trained.parent / "cache"), "--evaluate.samples", "100",
               "--evaluate.features", "pixels", "--steps", "9")  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("scores.jsonl: lines 1, ") == done.stderr.count("rollbacks.jsonl: line 1 is damaged") == 1
    assert all((out / name).read_text().startswith(text) for name, text in damaged.items())
    assert [result.step for result in read_scores(out / "scores.jsonl")][-1] == 9
    assert len(read_starts(out / "environment.jsonl")) == len(read_starts(trained / "environment.jsonl")) + 1
    assert not (out / "samples" / "step-000000999.png").exists()


def test_one_rank_names_what_is_damaged(faces32: Path, trained: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    shutil.copytree(trained, out)
    for name in ("scores.jsonl", "rollbacks.jsonl"):
        with (out / name).open("a") as file:
            file.write("damaged\n")
    words = ["faces", *SMALL, "--data.shards", str(faces32), "--out", str(out), "--data.workers", "0", "--steps", "9",
             "--evaluate.samples", "100", "--evaluate.features", "pixels"]  # fmt: skip
    (code, said), (other_code, other) = on_ranks(2, train_here, words)
    assert code == other_code == 0, said
    assert said.count("scores.jsonl: line ") == said.count("rollbacks.jsonl: line ") == 1 and "damaged" not in other
