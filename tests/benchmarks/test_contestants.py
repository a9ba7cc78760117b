"""What the benchmarks race: the same work for all, and programs that run."""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.batchnorm import OURS, PLAIN, shapes
from benchmarks.gpu import read_batch_norm, read_step
from benchmarks.measure.flops import forward, iteration
from benchmarks.rivals.baselines import Iteration, pytorch_example, tutorial
from benchmarks.rivals.contestants import EXAMPLE
from tests.support.launching import run

FEATURES, BATCH = 8, 4


@pytest.mark.parametrize("baseline", [pytorch_example, tutorial])
def test_baselines_compute_what_their_authors_wrote_and_no_more(
    baseline: Callable[[int, torch.device], Iteration],
) -> None:
    """Which is ours and, in G's step, the gradients of D's weights, which nobody uses."""
    layers = forward(64, 3, 100, FEATURES, FEATURES)
    iterate = baseline(FEATURES, torch.device("cpu"))
    with FlopCounterMode(display=False) as counter:
        iterate(torch.zeros(BATCH, 3, 64, 64))
    unused = 2 * sum(layers["discriminator"].values())
    assert counter.get_total_flops() == BATCH * (iteration(layers) + unused)


def test_the_race_of_steps_reports_itself(tmp_path: Path) -> None:
    flags = ["--features", "4", "--batch-size", "4", "--rounds", "3", "--iterations", "1", "--precision", "float32"]
    command = [sys.executable, "-m", "benchmarks.step", *flags, "--json", str(tmp_path / "out.json")]
    done = run(words=command)
    assert done.returncode == 0, done.stderr
    said = done.stdout
    facts = json.loads((tmp_path / "out.json").read_text())
    assert {len(seconds) for seconds in facts["seconds"].values()} == {3}
    assert all(sorted(facts["seconds"][name])[1] == median for name, median in facts["median"].items())
    parts = [share for name, share in facts["breakdown"].items() if not name.startswith("of which")]
    assert sum(parts) == pytest.approx(1) and min(parts) >= 0
    assert "of the example" in said and all(name in said for name in facts["median"])
    rows = {row.measurement: row.figure for row in read_step(tmp_path / "out.json")}
    assert all(f"batch 4, {name}" in rows for name in facts["median"])
    ratio = facts["median"][EXAMPLE] / facts["median"]["shardgan, float32"]
    assert rows[f"batch 4, shardgan, float32: relative to {EXAMPLE}"] == f"{ratio:.2f}x"
    share = rows["batch 4, shardgan, float32: share of the matrix product"]
    assert f"{share} of the" in said, "as benchmarks.step prints it"


def test_the_table_of_layers_says_what_is_chosen(tmp_path: Path) -> None:
    """bf16 is emulated where it has to be."""
    flags = ["--layers", "--features", "2", "--batch-size", "2", "--precision", "bf16", "--json", str(tmp_path / "o")]
    done = run(words=[sys.executable, "-m", "benchmarks.step", *flags])
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "o").read_text())["layers"]
    passes = {"forward", "gradient of input", "gradient of weight"}
    for dtype, title in itertools.product(
        ("float32", "bf16"), ("generator 32->16, 4x4->8x8", "discriminator 8->16, 8x8->4x4")
    ):
        found = [row for row in rows if (row["dtype"], row["layer"]) == (dtype, title)]
        assert {row["what"] for row in found} == passes
        assert all(row["convolution"] > 0 and row["product"] > 0 and row["bare"] > 0 for row in found)
    measured = [row for row in rows if row["dtype"] == "bf16" and row["product"] and "32x32->64x64" not in row["layer"]]
    assert all(row["chosen"] == (row["product"] < 0.9 * row["convolution"]) for row in measured)
    assert {row["what"] for row in rows if row["layer"] == "BatchNorm of 16 at 4x4"} == {"forward", "backward"}
    assert done.stdout.count("  product") == sum(row["chosen"] for row in rows) + 1


def test_batch_norm_over_ranks_is_measured_beside_plain(tmp_path: Path) -> None:
    flags = ["--features", "4", "--batch-size", "4", "--rounds", "3", "--json", str(tmp_path / "out.json")]
    done = run(words=[sys.executable, "-m", "benchmarks.batchnorm", *flags])
    assert done.returncode == 0, done.stderr
    medians = json.loads((tmp_path / "out.json").read_text())["median"]
    assert {*medians} == {PLAIN, OURS} and all(f"{1e3 * value:.2f} ms" in done.stdout for value in medians.values())
    assert [row.figure for row in read_batch_norm(tmp_path / "out.json")] == [
        f"{1e3 * value:.2f} ms" for value in medians.values()
    ]
    assert sorted(shapes(4, 2)) == sorted(
        [(2, 64, 4, 4), (2, 32, 8, 8), (2, 16, 16, 16), (2, 8, 32, 32), (2, 8, 16, 16), (2, 16, 8, 8), (2, 32, 4, 4)]
    )


def test_what_exchanges_cost_is_measured_on_two_ranks(tmp_path: Path) -> None:
    flags = ["--parts", "--features", "2", "--batch-size", "4", "--rounds", "2", "--json", str(tmp_path / "o")]
    done = run(words=[sys.executable, "-m", "benchmarks.scaling", *flags])
    assert done.returncode == 0, done.stderr
    parts = json.loads((tmp_path / "o").read_text())["parts"]
    assert all(name in done.stdout for name in parts) and len(parts) == 3
    assert all(len(pairs) == 2 and min(min(pair) for pair in pairs) > 0 for pairs in parts.values())


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("benchmarks.gpu --minutes 0", "--minutes is 0.0; it must be more than 0."),
        ("benchmarks.step --rounds 0", "--rounds is 0; it must be more than 0."),
        ("benchmarks.step --json no/such/place.json", "there is no folder no/such."),
        ("benchmarks.step --json .", "--json . is a folder"),
        ("benchmarks.scaling --gpu-steps 0.1 -1", "--gpu-steps is -1.0"),
        ("benchmarks.scaling --batch-size 7", "--batch-size 7 does not divide among two ranks."),
        ("benchmarks.run --workers -1", "--workers is -1; it must be 0 or more."),
        ("benchmarks.run --shards no/such", "no/such"),
        ("benchmarks.run --shards FACES32", "this needs 64x64x3."),
    ],
)
def test_bad_input_is_one_line_before_any_work(words: str, said: str, faces32: Path) -> None:
    done = run(words=[sys.executable, "-m", *words.replace("FACES32", str(faces32)).split()])
    assert done.returncode == 2 and not done.stdout
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1 and said in done.stderr
