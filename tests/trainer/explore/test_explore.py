"""``python -m trainer.explore`` on a small trained run, from outside."""

from __future__ import annotations

import io
import json
import pickle
import shlex
import shutil
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageSequence

from shards.common.errors import InputError
from tests.support.launching import SMALL
from tests.support.launching import run as launch
from tests.support.make import make_shards
from trainer.cli import conclude
from trainer.explore import __main__ as command_line
from trainer.explore.numbers import read_numbers, read_terms
from trainer.folder import checkpoint

SIDE, CAPTION, GAP, MARGIN = 96, 22, 6, 16
"""Of samples of 32 pixels, enlarged by 3."""
SUM = ("arithmetic", "--plus", "3,17,21", "--minus", "5,9,11", "--plus", "2,8,30")


@pytest.fixture(scope="module")
def trained(faces32: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 6 steps, with checkpoints at 4 and 6."""
    out = tmp_path_factory.mktemp("explore") / "run"
    flags = ("--data.shards", str(faces32), "--steps", "6", "--checkpoint.every", "4", "--seed", "5", "--out", str(out))
    done = launch(*flags, *SMALL, "--samples.count", "5")
    assert done.returncode == 0, done.stderr
    return out


@pytest.fixture(scope="module")
def conditional(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 4 steps on images of ten classes, called 0 to 9."""
    out = tmp_path_factory.mktemp("conditional") / "run"
    make_shards(out.parent / "shards", samples=50)
    flags = ("--data.shards", str(out.parent / "shards"), "--steps", "4", "--model.conditional", "true")
    done = launch(*flags, *SMALL, "--out", str(out), "--samples.count", "20")
    assert done.returncode == 0, done.stderr
    return out


Done = subprocess.CompletedProcess[str]


def start(*arguments: str | Path) -> Done:
    """Runs the command in a process of its own, which takes some seconds to load torch."""
    return launch(words=[sys.executable, "-m", "trainer.explore", *map(str, arguments)])


def explore(*arguments: str | Path) -> Done:
    """Runs the command in this process."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = conclude(lambda: command_line.explore([*map(str, arguments)]))
    return Done(arguments, code, out.getvalue(), err.getvalue())


def draw(run: Path, out: Path, *arguments: str | Path) -> dict[str, Any]:
    """Draws, and returns the JSON beside the picture."""
    done = explore(run, *arguments, "--out", out)
    assert done.returncode == 0, done.stderr
    record: dict[str, Any] = json.loads(out.with_suffix(".json").read_text())
    return record


def cells(path: Path, columns: int, count: int) -> list[np.ndarray]:
    """The samples of a table, without their captions."""
    with Image.open(path) as picture:
        pixels = np.asarray(picture)
    down, across = SIDE + CAPTION + GAP, SIDE + GAP
    tops_and_lefts = [(MARGIN + n // columns * down, MARGIN + n % columns * across) for n in range(count)]
    return [pixels[top : top + SIDE, left : left + SIDE] for top, left in tops_and_lefts]


def size(path: Path) -> tuple[int, int]:
    with Image.open(path) as picture:
        return picture.size


def test_a_sheet_has_the_samples_of_the_runs_own_sheet_whatever_its_count(trained: Path, tmp_path: Path) -> None:
    record = draw(trained, tmp_path / "small.png", "grid", "--count", "5")
    draw(trained, tmp_path / "large.png", "grid", "--count", "12")
    assert size(tmp_path / "small.png") == (3 * 96 + 2 * 6 + 32, 2 * (96 + 22) + 6 + 32)
    assert size(tmp_path / "large.png") == (4 * 96 + 3 * 6 + 32, 3 * (96 + 22) + 2 * 6 + 32)
    small, large = cells(tmp_path / "small.png", 3, 5), cells(tmp_path / "large.png", 4, 12)
    assert all(np.array_equal(one, other) for one, other in zip(small, large, strict=False))
    assert len({cell.tobytes() for cell in large}) > 6  # after 6 steps, two may have equal bytes
    with Image.open(trained / "samples" / "step-000000006.png") as sheet:
        third = np.asarray(sheet)[2:34, 2 + 2 * 34 : 34 + 2 * 34]
    assert np.abs(small[2][::3, ::3].astype(int) - third).max() <= 1  # there it was drawn in a batch
    assert (record["seed"], record["step"], record["position"]) == (5, 6, 48)
    assert (record["weights"], record["batchnorm"], record["latents"]["dimensions"]) == ("average", "eval", 8)


def test_each_class_has_a_row(conditional: Path, tmp_path: Path) -> None:
    """Sample i is of class i mod 10, as on the run's own sheet. With --class, all are of that one."""
    record = draw(conditional, tmp_path / "all.png", "grid", "--count", "20")
    assert record["class"] is None and size(tmp_path / "all.png")[0] == 3 * 96 + 2 * 6 + 32
    found = [cell for number, cell in enumerate(cells(tmp_path / "all.png", 3, 30)) if number % 3]  # the first: names
    for row in (0, 7):
        record = draw(conditional, tmp_path / f"{row}.png", "grid", "--count", "20", "--class", str(row))
        assert record["class"] == str(row)
        alone = cells(tmp_path / f"{row}.png", 5, 20)
        for column in (0, 1):
            assert np.array_equal(found[2 * row + column], alone[10 * column + row])
    draw(conditional, tmp_path / "3.png", "grid", "--count", "20", "--class", "3")
    assert not np.array_equal(cells(tmp_path / "3.png", 5, 1)[0], cells(tmp_path / "7.png", 5, 1)[0])
    with Image.open(conditional / "samples" / "step-000000004.png") as sheet:
        pixels = np.asarray(sheet)
    last = pixels[2 + 9 * 34 : 34 + 9 * 34, -34:-2]
    assert np.abs(found[19][::3, ::3, 0].astype(int) - last).max() <= 1  # sample 19, there in a batch


def test_a_walk_goes_from_class_to_class_or_stays_in_one(conditional: Path, tmp_path: Path) -> None:
    walk = ("walk", "--through", "3,14", "--frames", "2")
    draw(conditional, tmp_path / "both.png", *walk)
    both = cells(tmp_path / "both.png", 9, 18)
    for name, place in (("3", 0), ("4", 8)):  # where the walk is in the class of each sample
        draw(conditional, tmp_path / f"{name}.png", *walk, "--class", name)
        same = [np.array_equal(*pair) for pair in zip(both, cells(tmp_path / f"{name}.png", 9, 18), strict=True)]
        assert same[place] and same[17 - place] and not same[4]


def test_a_sum_stays_within_a_class(conditional: Path, tmp_path: Path) -> None:
    done = explore(conditional, *SUM, "--out", tmp_path / "sum.png")
    assert done.returncode == 2 and "Add --class, one of 0, 1, 2, 3, 4, 5, 6, 7, 8, 9." in done.stderr
    for name in ("2", "5"):
        assert draw(conditional, tmp_path / f"{name}.png", *SUM, "--class", name)["class"] == name
    assert (tmp_path / "2.png").read_bytes() != (tmp_path / "5.png").read_bytes()


def test_a_class_that_does_not_exist_is_refused(trained: Path, conditional: Path, tmp_path: Path) -> None:
    for run, why in (
        (trained, "the run is not class-conditional"),
        (conditional, "there is no such class. The run has 0, 1, "),
    ):
        for what in ("grid", "images"):
            done = explore(run, what, "--class", "10", "--out", tmp_path / "x.png")
            assert done.returncode == 2 and f"--class 10: {why}" in done.stderr and done.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_images_are_of_all_classes_in_turn_or_of_one(conditional: Path, tmp_path: Path) -> None:
    """What a folder holds is continued with the same class only."""
    for name, words in (("all", ()), ("six", ("--class", "6"))):
        done = explore(conditional, "images", "--count", "20", "--out", tmp_path / name, *words)
        assert done.returncode == 0, done.stderr
    same = [
        (tmp_path / "all" / f"{number:09d}.png").read_bytes() == (tmp_path / "six" / f"{number:09d}.png").read_bytes()
        for number in range(20)
    ]
    assert same[6] and same[16] and sum(same) < 10
    refused = explore(conditional, "images", "--count", "30", "--out", tmp_path / "six", "--class", "7")
    assert refused.returncode == 2 and "samples of another class" in refused.stderr


def test_seed_and_checkpoint_decide_what_is_drawn(trained: Path, tmp_path: Path) -> None:
    older = trained / "checkpoints" / "step-000000004"
    draw(trained, tmp_path / "a.png", "grid", "--count", "4")
    draw(trained, tmp_path / "b.png", "grid", "--count", "4", "--seed", "6")
    record = draw(trained, tmp_path / "c.png", "grid", "--count", "4", "--checkpoint", older)
    assert len({(tmp_path / f"{name}.png").read_bytes() for name in "abc"}) == 3
    assert (record["checkpoint"], record["step"]) == (str(older), 4)
    assert record["checkpoint_sha256"] == checkpoint.digest(older)


def test_a_walk_is_a_strip_and_a_loop_through_the_samples(trained: Path, tmp_path: Path) -> None:
    draw(trained, tmp_path / "grid.png", "grid", "--count", "16")
    record = draw(trained, tmp_path / "walk.png", "walk", "--through", "3,12,7", "--frames", "4")
    assert size(tmp_path / "walk.png") == (9 * 96 + 8 * 6 + 32, 3 * (96 + 22) + 2 * 6 + 32)
    sheet, strip = cells(tmp_path / "grid.png", 4, 16), cells(tmp_path / "walk.png", 9, 27)
    for leg, (start, end) in enumerate(((3, 12), (12, 7), (7, 3))):
        for cell, number in ((strip[9 * leg], start), (strip[9 * leg + 8], end)):
            assert np.abs(cell.astype(int) - sheet[number]).max() <= 1
    with Image.open(tmp_path / "walk.gif") as film:
        assert (film.info["loop"], film.size) == (0, (96, 96))
        frames = [
            np.asarray(frame.convert("RGB"))
            for frame in ImageSequence.Iterator(film)
            for _ in range(frame.info["duration"] // 60)  # equal ones are one; after 6 steps, rounding decides
        ]
    assert len(frames) == 3 * 4
    for frame, number in zip(frames[::4], (3, 12, 7), strict=True):
        assert np.abs(frame.astype(int) - sheet[number]).mean() < 4  # 256 colours
    assert (record["through"], record["frames"]) == ([3, 12, 7], 4)


def test_the_first_samples_are_walked_through_unless_some_are_named(trained: Path, tmp_path: Path) -> None:
    assert draw(trained, tmp_path / "walk.png", "walk", "--points", "2", "--frames", "1")["through"] == [0, 1]


def test_truncation_scales_the_latents(trained: Path, tmp_path: Path) -> None:
    """So the samples become alike, and the record says so."""
    spread = []
    for psi in ("1", "0.1", "0.001"):
        out = tmp_path / f"{psi}.png"
        record = draw(trained, out, "grid", "--count", "9", "--truncation", psi)
        assert record["truncation"] == float(psi) and f"--truncation {psi}" in record["command"]
        samples = np.stack(cells(out, 3, 9)).astype(float)
        spread.append(samples.std(0).mean())
    assert spread[0] > spread[1] > spread[2] and spread[2] < 0.001  # a value of a pixel is rounded either way
    walked = draw(trained, tmp_path / "walk.png", "walk", "--points", "2", "--frames", "1", "--truncation", "0.1")
    assert walked["truncation"] == 0.1
    ends = [cells(tmp_path / "walk.png", 9, 1)[0], cells(tmp_path / "0.1.png", 3, 1)[0]]
    assert np.abs(ends[0].astype(int) - ends[1]).max() <= 1


def test_images_are_the_numbered_samples(trained: Path, tmp_path: Path) -> None:
    folder = tmp_path / "images"
    done = explore(trained, "images", "--count", "70", "--out", folder)
    assert done.returncode == 0, done.stderr
    assert f"{folder} holds 70 images, 70 of them new." in done.stdout
    assert sorted(path.name for path in folder.iterdir()) == [f"{number:09d}.png" for number in range(70)]
    draw(trained, tmp_path / "grid.png", "grid", "--count", "70")
    for cell, path in zip(cells(tmp_path / "grid.png", 9, 70), sorted(folder.iterdir()), strict=True):
        with Image.open(path) as image:
            assert image.size == (32, 32)
            assert np.abs(cell[::3, ::3].astype(int) - np.asarray(image.convert("RGB"))).max() <= 1
    record = json.loads((tmp_path / "images.json").read_text())
    assert (record["seed"], record["step"], record["truncation"], record["images"]) == (5, 6, 1.0, 70)
    again = explore(*shlex.split(record["command"])[3:])
    assert "70 images, 0 of them new." in again.stdout
    fewer = explore(trained, "images", "--count", "9", "--out", folder)
    assert f"{folder} holds 70 images, 0 of them new." in fewer.stdout
    assert json.loads((tmp_path / "images.json").read_text())["images"] == 70
    refused = explore(trained, "images", "--count", "70", "--out", folder, "--truncation", "0.7")
    assert refused.returncode == 2
    assert refused.stderr == f"error: {folder} holds samples of another truncation. Give another --out.\n"


@pytest.mark.parametrize("out", [".", "..", "/"])
def test_images_need_a_folder_with_a_name(out: str) -> None:
    """The record is beside it. The run, which does not exist, is not looked at."""
    done = explore("no-such-run", "images", "--out", out)
    assert (done.returncode, done.stderr.startswith(f"error: --out is {out}; name the folder of")) == (2, True)


def test_nearest_real_images_are_shown_with_their_distances(trained: Path, tmp_path: Path) -> None:
    out = tmp_path / "nearest.png"
    flags = ("--count", "9", "--numbers", "3,8", "--k", "4", "--reals", "30", "--out", out)
    done = explore(trained, "nearest", *flags)
    assert done.returncode == 0, done.stderr
    assert "Median distance to the nearest of 30 real images, in lite0 features: " in done.stdout
    assert size(out) == (5 * 96 + 4 * 6 + 32, 2 * (96 + 22) + 6 + 32)
    record = json.loads(out.with_suffix(".json").read_text())
    assert [row["sample"] for row in record["neighbours"]] == [3, 8]
    assert all(row["distances"] == sorted(row["distances"]) for row in record["neighbours"])
    refused = explore(trained, "nearest", "--numbers", "64")
    assert refused.returncode == 2 and "--numbers '64': there is no sample 64" in refused.stderr


def test_arithmetic_shows_operands_in_their_order_and_the_result(trained: Path, tmp_path: Path) -> None:
    record = draw(trained, tmp_path / "sum.png", *SUM)
    terms = [("+", [3, 17, 21]), ("-", [5, 9, 11]), ("+", [2, 8, 30])]
    assert [(term["sign"], term["numbers"]) for term in record["terms"]] == terms
    assert record["variations"] == {"count": 8, "noise": "uniform", "reach": 0.25}
    # Nine columns: three concepts, three signs, 3x3 results. Five rows: samples, means, the last row of results.
    assert size(tmp_path / "sum.png") == (9 * 96 + 8 * 6 + 32, 5 * (96 + 22) + 4 * 6 + 32)
    draw(trained, tmp_path / "grid.png", "grid", "--count", "31")
    sheet = cells(tmp_path / "grid.png", 6, 31)
    with Image.open(tmp_path / "sum.png") as picture:
        pixels = np.asarray(picture)
    for column, (_, numbers) in enumerate(terms):
        for row, number in enumerate(numbers):
            top, left = MARGIN + row * (SIDE + CAPTION + GAP), MARGIN + 2 * column * (SIDE + GAP)
            assert np.array_equal(pixels[top : top + SIDE, left : left + SIDE], sheet[number])


def test_many_samples_of_a_concept_stand_in_columns_of_four(trained: Path, tmp_path: Path) -> None:
    draw(trained, tmp_path / "sum.png", "arithmetic", "--plus", ",".join(map(str, range(10))), "--minus", "3,4")
    # Nine columns: three and one of samples, two signs, 3x3 results. Six rows: samples, means, the last of results.
    assert size(tmp_path / "sum.png") == (9 * 96 + 8 * 6 + 32, 6 * (96 + 22) + 5 * 6 + 32)
    draw(trained, tmp_path / "grid.png", "grid", "--count", "10")
    drawn = cells(tmp_path / "sum.png", 9, 36)
    for number, cell in enumerate(cells(tmp_path / "grid.png", 4, 10)):
        assert np.array_equal(drawn[9 * (number % 4) + number // 4], cell)


def test_a_concept_less_itself_is_nothing_and_plus_another_is_that(trained: Path, tmp_path: Path) -> None:
    draw(trained, tmp_path / "sum.png", "arithmetic", "--plus", "4", "--minus", "4", "--plus", "9")
    draw(trained, tmp_path / "grid.png", "grid", "--count", "10")
    result = cells(tmp_path / "sum.png", 9, 17)[16]
    expected = cells(tmp_path / "grid.png", 4, 10)[9]
    inside = slice(3, -3)  # of its frame
    assert np.abs(result[inside, inside].astype(int) - expected[inside, inside]).max() <= 1


def test_a_picture_is_made_again_from_its_record(trained: Path, tmp_path: Path) -> None:
    """To the bit, by another process, when the run has newer checkpoints."""
    run, records, before = tmp_path / "run", [], {}
    shutil.copytree(trained, run)
    for kind in (("grid",), ("walk", "--through", "1,2", "--frames", "3"), SUM):
        done = explore(run, *kind)
        assert done.returncode == 0, done.stderr
        *pictures, record = [Path(line) for line in done.stdout.splitlines()]
        assert {file.parent for file in (*pictures, record)} == {run / "explore"}
        before |= {file: file.read_bytes() for file in pictures}
        records.append(record)
    shutil.copytree(run / "checkpoints" / "step-000000004", run / "checkpoints" / "step-000000009")
    for file in before:
        file.unlink()
    commands = [shlex.split(json.loads(record.read_text())["command"]) for record in records]
    assert all(command[:3] == ["python", "-m", "trainer.explore"] for command in commands)
    code = "import sys, json; from trainer.explore.__main__ import explore; [*map(explore, json.loads(sys.argv[1]))]"
    arguments = json.dumps([[*command[3:], "--force"] for command in commands])
    again = launch(words=[sys.executable, "-c", code, arguments])
    assert again.returncode == 0, again.stderr
    assert len(before) == 4 and {file: file.read_bytes() for file in before} == before


def test_what_exists_is_kept_without_force(trained: Path, tmp_path: Path) -> None:
    for suffix in (".png", ".json"):
        kept = tmp_path / f"{suffix[1:]}" / f"x{suffix}"
        kept.parent.mkdir()
        kept.write_text("mine")
        done = explore(trained, "grid", "--count", "4", "--out", kept.with_suffix(".png"))
        expect_error(done, str(kept), "--force")
        assert kept.read_text() == "mine"
        assert [*kept.parent.iterdir()] == [kept]
    assert explore(trained, "grid", "--count", "4", "--out", tmp_path / "png" / "x.png", "--force").returncode == 0
    assert size(tmp_path / "png" / "x.png")


def expect_error(done: Done, *parts: str) -> None:
    """Expects one line on standard error, exit code 2, nothing on standard output."""
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1, done.stderr
    for part in parts:
        assert part in done.stderr


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (("arithmetic", "--plus", "3,64"), "no sample 64 in a grid of 64"),
        (("arithmetic", "--plus", "3", "--minus", "1,x"), "'x' is not a sample number"),
        (("arithmetic", "--minus", "1"), "at least one --plus"),
        (("walk", "--through", "1,99"), "no sample 99"),
        (("walk", "--through", "1"), "at least two samples"),
        (("walk", "--points", "65"), "--points is 65"),
        (("walk", "--frames", "0"), "--frames is 0"),
        (("walk", "--frames", "100", "--points", "41"), "has 4100 images"),
        (("walk", "--frames", "1", "--points", "456", "--count", "456"), "has 4104 images"),
        (("grid", "--count", "0"), "--count is 0"),
        (("grid", "--seed", "-1"), "--seed is -1"),
        (("grid", "--out", "x.jpg"), "must end in .png"),
        (("grid", "--out", "s3://bucket/x.png"), "s3://bucket/x.png is a URL, and only folders can be written to"),
        (("images", "--out", "s3://bucket/x"), "s3://bucket/x is a URL, and only folders can be written to"),
    ],
)
def test_a_bad_option_is_one_line(trained: Path, arguments: tuple[str, ...], part: str) -> None:
    expect_error(explore(trained, *arguments), part)
    assert not (trained / "explore").exists()


def test_a_folder_that_is_no_run_or_has_no_checkpoint_is_one_line(trained: Path, tmp_path: Path) -> None:
    expect_error(explore(tmp_path / "none", "grid"), "no such folder")
    expect_error(explore(tmp_path, "grid"), "not a run folder")
    shutil.copy(trained / "config.yaml", tmp_path)
    expect_error(explore(tmp_path, "grid"), "no checkpoint yet")
    assert [*tmp_path.iterdir()] == [tmp_path / "config.yaml"]


def test_an_unwritable_place_is_one_line(trained: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    expect_error(start(trained, "grid", "--count", "2", "--out", tmp_path / "file" / "x.png"), "cannot be written")
    expect_error(explore(trained, "grid", "--out", tmp_path / ("x" * 300 + ".png")), "name too long")


def test_a_pickled_checkpoint_is_refused_and_never_executed(trained: Path, tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (tmp_path / "executed",)

    (tmp_path / "model.pt").write_bytes(pickle.dumps(Trap()))
    expect_error(explore(trained, "grid", "--checkpoint", tmp_path / "model.pt"), "model.pt is a file", "never opened")
    assert not (tmp_path / "executed").exists()


def test_help_shows_examples_and_loads_no_torch() -> None:
    code = """if True:
        import sys
        from trainer.explore.__main__ import explore
        for arguments in (["--help"], ["runs/x", "arithmetic", "--help"]):
            try:
                explore(arguments)
            except SystemExit as end:
                assert end.code == 0
        sys.exit(bool({"torch", "wandb", "accelerate"} & sys.modules.keys()))"""
    done = launch(words=[sys.executable, "-c", code])
    assert done.returncode == 0, done.stderr
    shown = " ".join(done.stdout.replace("│", " ").split())
    assert "Example: python -m trainer.explore runs/faces grid" in shown
    assert all(name in shown for name in ("grid", "walk", "arithmetic"))
    assert "--plus 3,17,21 --minus 5,9,11" in shown


@given(st.lists(st.integers(0, 99), min_size=1), st.sampled_from([",", ", ", " ,"]))
def test_numbers_come_back_in_their_order(numbers: list[int], comma: str) -> None:
    assert read_numbers(comma.join(map(str, numbers)), 100, "--plus") == tuple(numbers)


@pytest.mark.parametrize(
    "text", ["", ",", "3,,4", "3;4", "x", "-1", "+1", "1.5", "0x3", "²", "٣", "3 4", "1_0", "9" * 5000]
)
def test_junk_is_named_with_its_flag(text: str) -> None:
    with pytest.raises(InputError, match=r"--minus .* is not a sample number"):
        read_numbers(text, 100, "--minus")


@given(st.text())
def test_anything_is_numbers_or_one_line_of_error(text: str) -> None:
    try:
        numbers, said = read_numbers(text, 10, "--plus"), "one line"
    except InputError as error:
        numbers, said = (), str(error)
    assert all(0 <= number < 10 for number in numbers)
    assert len(said.splitlines()) == 1


def test_a_number_off_the_sheet_is_named() -> None:
    assert read_numbers("63", 64, "--plus") == (63,)
    with pytest.raises(InputError, match=r"no sample 64 in a grid of 64 \(0 to 63\).*--count 65"):
        read_numbers("3,64", 64, "--plus")


@given(st.lists(st.tuples(st.sampled_from("+-"), st.integers(0, 9), st.booleans()), min_size=1))
def test_terms_stand_as_they_were_typed(typed: list[tuple[str, int, bool]]) -> None:
    flags, words = {"+": "--plus", "-": "--minus"}, ["runs/x", "arithmetic", "--seed", "3"]
    for sign, number, joined in typed:
        words += [f"{flags[sign]}={number}"] if joined else [flags[sign], str(number)]
    values = {kind: [str(number) for sign, number, _ in typed if sign == kind] for kind in "+-"}
    if values["+"]:
        terms = read_terms(words, values["+"], values["-"], 10)
        assert terms == [(sign, (number,)) for sign, number, _ in typed]
    else:
        with pytest.raises(InputError, match="at least one --plus"):
            read_terms(words, values["+"], values["-"], 10)
