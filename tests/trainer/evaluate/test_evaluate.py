"""``python -m trainer.evaluate`` on a real run: its table, what it keeps, and which checkpoint is the best."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from shards.building.build import build
from shards.building.recipe import Options
from shards.common.errors import InputError
from shards.format.manifest import read_manifest
from shards.sources.faces import Faces
from tests.support.launching import SMALL, run, status
from tests.support.make import make_shards, numbers, reindex
from tests.trainer.train.test_collapse import create_outputs
from trainer.cli import conclude
from trainer.config import Data, Model
from trainer.data import open_images
from trainer.evaluate import __main__ as main
from trainer.evaluate import classifier, evaluation, measures
from trainer.evaluate.__main__ import Evaluate, evaluate
from trainer.evaluate.evaluation import Evaluator, generated
from trainer.folder.checkpoint import checkpoint_name, checkpoints, remove
from trainer.folder.load_run import load_run
from trainer.folder.run_folder import CHECKSUMS, RunFolder
from trainer.folder.score_log import Result, Subject, read_scores
from trainer.gan.factory import create_networks

SUBJECT = Subject(checkpoint="step-000000002", step=2, position=16, weights="averaged", batch_norm="none")
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
    out, said = capsys.readouterr()
    assert [json.loads(line)["scores"] for line in out.splitlines()] == [result.scores for result in results]
    assert said.count(" is scored already.") == 2 and " parts" not in said


def test_the_table_has_a_column_for_each_checkpoint_and_says_how_many_images(
    scored: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    evaluate(Evaluate(scored, checkpoint="all", features="pixels", samples=128))
    out, said = capsys.readouterr()
    head, *lines, numbers = out.splitlines()
    assert head.split() == ["step-000000002", "step-000000004"]
    assert [line.split()[0] for line in lines] == list(PIXELS)
    assert numbers == said.splitlines()[0] == "pixels: 128 generated images against 128 real ones"


def test_the_reals_are_described_once(scored: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def read_again(*_: object) -> None:
        raise AssertionError("the real images were read again")

    monkeypatch.setattr(evaluation, "real", read_again)
    (scored / "scores.jsonl").unlink()
    evaluate(Evaluate(scored, features="pixels", samples=128))
    assert len(read_scores(scored / "scores.jsonl")) == 1


def test_the_kept_features_belong_to_a_precision(trained: Path) -> None:
    dataset, matmul = open_images(RunFolder(trained).read_config().data), torch.backends.cuda.matmul
    before, names = matmul.fp32_precision, set()
    for kind, precision in (("cpu", "ieee"), ("cuda", "ieee"), ("cuda", "tf32")):
        matmul.fp32_precision = precision
        names.add(Evaluator([], dataset, 100, torch.device(kind), None).name_reals(measures.Pixels(), 100))
    matmul.fp32_precision = before
    dataset.reader.close()
    assert len(names) == 3


def test_the_best_checkpoint_has_the_lowest_score(scored: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results = read_scores(scored / "scores.jsonl")
    lowest = min(results, key=lambda result: result.scores["swd"])
    assert load_run(scored, Path("best")).checkpoint.name == lowest.checkpoint
    assert f"Using {lowest.checkpoint}, the best by swd" in capsys.readouterr().err


def test_watching_an_ended_run_scores_what_it_has(trained: Path) -> None:
    (trained / "scores.jsonl").unlink(missing_ok=True)
    evaluate(Evaluate(trained, features="pixels", samples=128, watch=True))
    assert {result.step for result in read_scores(trained / "scores.jsonl")} == {2, 4}


def test_watching_waits_for_the_run_to_start_and_says_if_it_has_no_checkpoint(
    copy: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in checkpoints(copy / "checkpoints"):
        remove(path)
    elsewhere = copy.rename(copy.with_name("later"))
    monkeypatch.setattr(main.time, "sleep", lambda _: elsewhere.rename(copy))  # it starts while we wait
    assert conclude(lambda: evaluate(Evaluate(copy, features="pixels", samples=128, watch=True))) == 2
    waiting, error = capsys.readouterr().err.splitlines()
    assert waiting == f"Waiting for the run {copy} to start."
    assert error.startswith(f"error: {copy} has no checkpoint yet")


def test_watching_scores_what_is_written_again_and_misses_what_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A training that goes back writes a step twice, and one that goes on removes old checkpoints."""
    folder, seen = RunFolder(tmp_path), list[str]()

    def write(step: int, content: str) -> None:
        path = folder.checkpoints / checkpoint_name(step)
        path.mkdir(parents=True, exist_ok=True)
        (path / CHECKSUMS).write_text(content)
        os.utime(path / CHECKSUMS, (0, ord(content[1])))  # later, also where the clock of the disk is coarse

    def score(path: Path) -> None:
        seen.append((path / CHECKSUMS).read_text() if (path / CHECKSUMS).exists() else "damaged")
        if seen == ["2a"]:
            write(2, "2b")
            remove(folder.checkpoints / checkpoint_name(4))
            (folder.checkpoints / checkpoint_name(6) / CHECKSUMS).unlink()
            folder.write_status("done", 8, 64)

    for step in (2, 4, 6, 8):
        write(step, f"{step}a")
    folder.write_status("running", 8, 64)
    monkeypatch.setattr(main, "read_state", lambda path: SimpleNamespace(**status(path)))  # no process trains here
    monkeypatch.setattr(main, "PAUSE", 0.01)
    main.watch(folder, score)
    assert seen == ["2a", "damaged", "8a", "2b"] and not list(folder.checkpoints.glob(".*"))


def test_a_run_without_scores_has_no_best(trained: Path) -> None:
    (trained / "scores.jsonl").unlink(missing_ok=True)
    with pytest.raises(InputError, match="no scored checkpoint"):
        load_run(trained, Path("best"))


@pytest.fixture
def copy(trained: Path, tmp_path: Path) -> Path:
    """A copy of the run to damage, with scores of its own."""
    shutil.copytree(trained, tmp_path / "run", ignore=shutil.ignore_patterns("scores.jsonl"))
    return tmp_path / "run"


def damage(checkpoint: Path) -> None:
    (checkpoint / "average.safetensors").write_bytes(b"")


@pytest.mark.parametrize("more", [{"checkpoint": "all"}, {"watch": True}])
@pytest.mark.parametrize("as_json", [False, True])
def test_a_damaged_checkpoint_is_left_out_and_the_end_is_an_error(
    copy: Path, more: dict[str, object], as_json: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    damage(copy / "checkpoints" / "step-000000002")
    options = Evaluate(copy, features="pixels", samples=100, json=as_json, **more)  # type: ignore[arg-type]
    assert conclude(lambda: evaluate(options)) == 2
    out, said = capsys.readouterr()
    assert "step-000000004" in out and "step-000000002" not in out
    assert said.count("warning: ") == 1 and "step-000000002/average.safetensors does not match its checksum." in said
    assert "error: These checkpoints are damaged and were left out: step-000000002." in said.splitlines()[-1]
    assert [result.step for result in read_scores(copy / "scores.jsonl")] == [4]


@pytest.mark.parametrize("how", ["repaired", "removed"])
def test_what_is_damaged_only_for_a_while_is_no_error(
    copy: Path, how: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint, states = copy / "checkpoints" / "step-000000002", iter(["running", "done"])
    whole = (checkpoint / "average.safetensors").read_bytes()
    damage(checkpoint)

    def read_state(_: Path) -> SimpleNamespace:
        state = next(states)
        if state == "done" and how == "repaired":
            (checkpoint / "average.safetensors").write_bytes(whole)
        elif state == "done":
            remove(checkpoint)
        return SimpleNamespace(state=state)

    monkeypatch.setattr(main, "read_state", read_state)
    monkeypatch.setattr(main, "PAUSE", 0.01)
    assert conclude(lambda: evaluate(Evaluate(copy, features="pixels", samples=100, watch=True))) == 0
    assert "step-000000002/average.safetensors does not match its checksum." in capsys.readouterr().err
    assert [result.step for result in read_scores(copy / "scores.jsonl")] == ([4, 2] if how == "repaired" else [4])


def while_it_scores(monkeypatch: pytest.MonkeyPatch, happen: Callable[[], object]) -> None:
    """Let something ``happen`` after a checkpoint is loaded and before its scores are kept."""
    score = Evaluator.score

    def score_and_let_happen(*words: Any, **more: Any) -> list[Result]:
        happen()
        return score(*words, **more)

    monkeypatch.setattr(Evaluator, "score", score_and_let_happen)


def test_scores_of_weights_that_a_training_went_back_from_are_not_kept(
    copy: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def go_back() -> None:
        to = SimpleNamespace(step=2, position=16, rollbacks=1)
        create_outputs(copy).roll_back(to, None, "NaN.")  # type: ignore[arg-type]

    while_it_scores(monkeypatch, go_back)
    evaluate(Evaluate(copy, features="pixels", samples=100))
    out, said = capsys.readouterr()
    assert read_scores(copy / "scores.jsonl") == [] and "ms-ssim-real" in out
    assert "warning: the training went back to before step-000000004 meanwhile. Its scores are not kept." in said


@pytest.mark.parametrize("full", [False, True])
def test_a_checkpoint_that_is_removed_while_it_is_scored_hides_no_error(
    copy: Path, full: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def happen() -> None:
        for path in checkpoints(copy / "checkpoints"):
            remove(path)
        if full:
            (copy / "scores.jsonl").mkdir()

    while_it_scores(monkeypatch, happen)
    options = Evaluate(copy, checkpoint="all", features="pixels", samples=100)
    assert conclude(lambda: evaluate(options)) == (2 if full else 0)
    if full:
        assert "scores.jsonl cannot be written (Is a directory)" in capsys.readouterr().err.splitlines()[-1]
    else:
        assert [result.step for result in read_scores(copy / "scores.jsonl")] == [2]


def test_the_best_checkpoint_that_is_whole_is_used(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    evaluate(Evaluate(copy, checkpoint="all", features="pixels", samples=100))
    best = load_run(copy, Path("best")).checkpoint
    (other,) = {path.name for path in best.parent.iterdir()} - {best.name}
    damage(best)
    with pytest.warns(UserWarning, match=f"skipping a damaged checkpoint: {best}/average"):
        assert load_run(copy, Path("best")).checkpoint.name == other
    assert f"Using {other}, the best by swd" in capsys.readouterr().err
    damage(best.with_name(other))
    with (
        pytest.warns(UserWarning, match="skipping"),
        pytest.raises(InputError, match="no scored checkpoint that is wh"),
    ):
        load_run(copy, Path("best"))


def test_a_folder_that_cannot_be_written_is_an_error_before_the_work(copy: Path) -> None:
    (copy / "scores.jsonl").mkdir()
    with pytest.raises(InputError, match=r"scores\.jsonl is a folder, not the file of scores\. Move it away\."):
        evaluate(Evaluate(copy, features="pixels", samples=100))


@pytest.mark.parametrize("as_json", [False, True])
def test_scores_that_cannot_be_kept_are_shown(
    copy: Path, as_json: bool, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(main, "check_writable", lambda _: (copy / "scores.jsonl").mkdir())
    assert conclude(lambda: evaluate(Evaluate(copy, features="pixels", samples=100, json=as_json))) == 2
    out, said = capsys.readouterr()
    assert "ms-ssim-real" in out
    assert f"error: {copy}/scores.jsonl cannot be written (Is a directory)" in said.splitlines()[-1]


def test_a_closed_pipe_loses_no_scores(copy: Path) -> None:
    command = [sys.executable, "-m", "trainer.evaluate", str(copy), "--features", "pixels", "--samples", "100"]
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run([*command, "--json"], stdout=writer, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writer)
    assert done.returncode == 0, done.stderr
    assert [result.step for result in read_scores(copy / "scores.jsonl")] == [4]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"features": "lite1"}, "--features lite1: give one or more of lite0, inception, labels, pixels."),
        ({"features": ","}, "--features ,: give one or more"),
        ({"samples": 10}, "--samples is 10; it must be at least 100."),
        ({"features": "inception"}, "needs the weights of the FID network"),
        ({"features": "inception", "weights": Path("/nope")}, "--weights /nope cannot be read (No such file or direct"),
        ({"weights": Path("/nope")}, "--weights are those of --features inception."),
        ({"checkpoint": "step-9"}, "is no checkpoint of"),
        ({"run": Path("/nope")}, "There is no run at /nope: no such folder."),
        ({"run": Path(__file__)}, "is a file. Name the folder of a run"),
    ],
)
def test_bad_options_are_one_line(
    trained: Path, options: dict[str, object], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert conclude(lambda: evaluate(Evaluate(**{"run": trained, "features": "pixels", **options}))) == 2  # type: ignore[arg-type]
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


def test_it_is_said_that_grey_images_are_repeated_in_three_channels(tmp_path: Path) -> None:
    said = []
    for channels in (1, 3):
        make_shards(tmp_path / str(channels), channels=channels)
        dataset, device = open_images(Data(shards=str(tmp_path / str(channels)))), torch.device("cpu")
        evaluator = Evaluator([measures.create_lite0(device), measures.Pixels()], dataset, 100, device, None)
        said += [evaluator.describe_numbers(question) for question in evaluator.questions(SUBJECT)]
        dataset.reader.close()
    assert said == [
        "lite0: 100 generated images against 50 real ones, which are all; grey is repeated in three channels",
        "pixels: 50 generated images against 50 real ones, which are all",
        "lite0: 100 generated images against 50 real ones, which are all",
        "pixels: 50 generated images against 50 real ones, which are all",
    ]


def test_labels_need_labels(trained: Path) -> None:
    with pytest.raises(InputError, match=r"tar holds no labels, .* Or leave labels out of --features\."):
        evaluate(Evaluate(trained, features="labels"))


def test_a_generator_is_asked_for_the_classes_of_the_data(tmp_path: Path) -> None:
    """Image i is of the class of the i-th real one, past the end of an epoch too."""
    make_shards(tmp_path / "shards", samples=40)
    data = Data(shards=str(tmp_path / "shards"), cache=tmp_path / "cache")
    dataset, generator = open_images(data, labels=True), create_networks(Model(z_dim=4, features_g=2), 32, 1, 10)[0]
    asked: list[torch.Tensor] = []
    generator.register_forward_pre_hook(lambda _, inputs: asked.append(inputs[1]))
    images = generated(generator, 0, dataset)(30, 94)
    labels = [number % 10 for number in numbers(dataset.__getitems__(range(30, 94)).images)]
    dataset.reader.close()
    assert len(images) == 64 and torch.cat(asked).tolist() == labels


def test_a_class_conditional_run_is_compared_with_its_classes(tmp_path: Path) -> None:
    make_shards(tmp_path / "shards", samples=40)
    make_shards(tmp_path / "fewer", samples=9)
    build(Faces(40), tmp_path / "faces", Options(size=32))
    done = run(*SMALL, "--data.shards", str(tmp_path / "shards"), "--out", str(tmp_path / "run"), "--steps", "1",
               "--data.workers", "0", "--model.conditional", "true")  # fmt: skip
    assert done.returncode == 0, done.stderr
    unlabelled = "is class-conditional, so real images need a class each. shard"
    for shards, why in (("faces", unlabelled), ("fewer", "There are 9")):
        with pytest.raises(InputError, match=why):
            evaluate(Evaluate(tmp_path / "run", features="pixels", shards=str(tmp_path / shards)))
    names = tuple("abcdefghij")
    reindex(tmp_path / "shards", replace(read_manifest(tmp_path / "shards"), classes=names))
    with pytest.raises(InputError, match=r"classes of the real images are a, b, .* of 0, 1, 2"):
        evaluate(Evaluate(tmp_path / "run", features="pixels"))


def test_scores_of_another_classifier_are_others(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are neither compared nor known already."""
    shutil.copytree(trained, tmp_path / "run", ignore=shutil.ignore_patterns("scores.jsonl"))
    make_shards(tmp_path / "labelled", channels=3)
    for epochs in (1, 0, 1):
        monkeypatch.setattr(classifier, "EPOCHS", epochs)
        evaluate(Evaluate(tmp_path / "run", features="labels", samples=100, shards=str(tmp_path / "labelled")))
    results = read_scores(tmp_path / "run" / "scores.jsonl")
    assert len({each.network for each in results}) == len({each.question for each in results}) == len(results) == 2
    assert capsys.readouterr().err.count(" is scored already.") == 1  # the classifier of the first time is kept


def test_a_run_without_checkpoints_says_so(trained: Path, tmp_path: Path) -> None:
    shutil.copytree(trained, tmp_path / "run", ignore=shutil.ignore_patterns("checkpoints"))
    for checkpoint in ("newest", "all", "best"):
        with pytest.raises(InputError, match="has no checkpoint yet"):
            evaluate(Evaluate(tmp_path / "run", checkpoint=checkpoint, features="pixels"))


def test_a_few_images_are_no_sample(trained: Path, tmp_path: Path) -> None:
    make_shards(tmp_path / "few", channels=3, samples=9)
    with pytest.raises(InputError, match="There are 9 real images; scores need at least 10"):
        evaluate(Evaluate(trained, features="pixels", shards=str(tmp_path / "few")))
    make_shards(tmp_path / "enough", channels=3, samples=10)
    evaluate(Evaluate(trained, samples=100, shards=str(tmp_path / "enough")))  # of both kinds
    (trained / "scores.jsonl").unlink()


def test_fewer_images_than_asked_for_are_named(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measures, "Pixels", partial(measures.Pixels, limit=32))
    make_shards(tmp_path / "few", channels=3, samples=40)
    evaluate(Evaluate(trained, samples=100, shards=str(tmp_path / "few")))
    (result, _) = read_scores(trained / "scores.jsonl")
    out, said = capsys.readouterr()
    assert "step-000000004, lite0, comparison: 6 of 6 parts, " in said
    assert "step-000000004, pixels, comparison: 10 of 10 parts, " in said
    assert out.splitlines()[-2:] == [
        "lite0: 100 generated images against 40 real ones, which are all",
        "pixels: 32 generated images against 32 real ones, the most that it compares",
    ]
    assert (result.reals, result.samples) == (40, 100)
    assert set(result.scores) == {
        f"{name}-lite0" for name in ("fd", "kd", "precision", "recall", "density", "coverage")
    }
    (trained / "scores.jsonl").unlink()
