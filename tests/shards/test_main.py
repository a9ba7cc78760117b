from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from tests.shards.conftest import Run


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    (tmp_path / "raw").mkdir()
    for number in range(3):
        Image.new("RGB", (40, 40), (number, 0, 0)).save(tmp_path / "raw" / f"{number}.png")
    return tmp_path / "raw"


def test_help_teaches(run: Run) -> None:
    build = run("build", "--help").stdout
    assert all(kind in build for kind in ("mnist", "celeba", "lsun", "folder", "faces"))
    mnist, celeba = (run("build", kind, "--help").stdout for kind in ("mnist", "celeba"))
    assert "RAW OUT" in mnist
    assert "(default: png)" in mnist
    assert "Example: python -m shards build mnist" in mnist
    assert "--crop" in celeba
    assert "--crop" not in mnist


def test_parsing_does_not_import_torch_or_webdataset() -> None:
    """They cost 5 s, and the parser should answer in one. The trainer imports the build too."""
    heavy = {"torch", "webdataset", "tqdm", "imagehash", "scipy"}
    code = f"import sys, shards.__main__; print(*sys.modules.keys() & {heavy})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_a_process_ends_with_the_exit_code_and_one_line(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "shards", "info", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"error: No shards at {tmp_path}") and done.stderr.count("\n") == 1


def test_build_info_and_build_again(run: Run, raw: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    first = run("build", "folder", raw, out, "--size", "32", "--format", "npy")
    assert first.returncode == 0, first.stderr
    assert "3 of 3 images" in first.stderr
    info = run("info", out)
    assert info.returncode == 0
    facts, _, sheet = info.stdout.rstrip().rpartition("\n")
    assert facts + "\n" == first.stdout
    assert sheet.split() == ["sheet", str(out / "contact-sheet.png")]
    with Image.open(out / "contact-sheet.png") as picture:
        assert picture.size == (2 * 34 + 2, 2 * 34 + 2)
    assert "3 of 32x32x3, npy" in info.stdout
    again = run("build", "folder", raw, out, "--size", "32", "--format", "npy")
    assert (again.returncode, again.stdout) == (0, first.stdout)
    assert "was built before" in again.stderr


def test_index_and_verify(run: Run, raw: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert run("build", "folder", raw, out, "--size", "32").returncode == 0
    index = run("index", out, "--out", tmp_path / "index")
    assert index.returncode == 0 and "3 of 32x32x3, jpg" in index.stdout and "tars at" in index.stdout
    assert "whole: every file" in run("verify", tmp_path / "index").stderr
    tar = next(out.glob("*.tar"))
    tar.write_bytes(tar.read_bytes().replace(b"JFIF", b"JFJF", 1))
    verify = run("verify", out)
    assert verify.returncode == 2
    assert "error: " in verify.stderr and "2 problems" in verify.stderr
    assert [line.partition(":")[0].split(",")[0] for line in verify.stdout.splitlines()] == [tar.name, tar.name]


def test_errors_are_one_sentence_and_exit_code_2(run: Run, raw: Path, tmp_path: Path) -> None:
    for path in raw.iterdir():
        path.unlink()
    for arguments, message in [
        (("build", "folder", raw, tmp_path / "out"), "holds no images"),
        (("build", "faces", tmp_path / "out", "--count", "0"), "--count is 0"),
        (("build", "folder", raw, tmp_path / "out", "--limit", "0"), "--limit is 0"),
    ]:
        done = run(*arguments)
        assert done.returncode == 2
        assert done.stderr.startswith("error: ")
        assert message in done.stderr
        assert done.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_dedup_without_its_extra_is_one_line_before_any_work(
    run: Run, raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "imagehash", None)  # as if it were not installed
    done = run("build", "folder", raw, tmp_path / "out", "--size", "32", "--dedup")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: This needs imagehash, not installed here. Run: uv sync --extra dedup\n"
    assert not (tmp_path / "out").exists()
    assert run("build", "folder", raw, tmp_path / "out", "--size", "32").returncode == 0


def test_an_unknown_flag_or_source_is_named(run: Run, tmp_path: Path) -> None:
    for arguments in (("folder", tmp_path, tmp_path / "out", "--bogus", "0"), ("bogus", tmp_path)):
        done = run("build", *arguments)
        assert done.returncode == 2
        assert "bogus" in done.stderr
        assert "Traceback" not in done.stderr
