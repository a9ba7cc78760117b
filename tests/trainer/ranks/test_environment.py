from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from shards.common.errors import InputError
from tests.support.launching import ROOT, SMALL, run, status
from trainer.ranks.environment import MPI, PLUGINS, RANK, RENDEZVOUS, check_environment
from trainer.ranks.launch import Launch, check_launch, read_launch

ONE = Launch(0, 1, 1, True, "no")
MASTER = "MASTER_ADDR=127.0.0.1 MASTER_PORT=29500"


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """No launcher."""
    for name in (*RANK, *RENDEZVOUS, *MPI, *PLUGINS, "ACCELERATE_DYNAMO_BACKEND"):
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


def split(words: str) -> dict[str, str]:
    return dict(word.split("=", 1) for word in words.split())


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        ("WORLD_SIZE=2", "RANK and MASTER_ADDR and MASTER_PORT are missing"),
        ("WORLD_SIZE=2 RANK=0", "MASTER_ADDR and MASTER_PORT are missing"),
        ("WORLD_SIZE=2 RANK=0 MASTER_ADDR=n1", "MASTER_PORT is missing"),
        (f"WORLD_SIZE=2 {MASTER}", "RANK is missing"),
        ("RANK=1", "RANK is too large"),
        (f"RANK=4 WORLD_SIZE=4 {MASTER}", "RANK is too large"),
        ("LOCAL_RANK=0", "RANK and WORLD_SIZE are missing"),
        (f"LOCAL_RANK=0 RANK=0 {MASTER}", "WORLD_SIZE is missing"),
        (f"LOCAL_RANK=2 LOCAL_WORLD_SIZE=2 RANK=2 WORLD_SIZE=4 {MASTER}", "LOCAL_RANK is too large"),
        (f"LOCAL_WORLD_SIZE=4 RANK=0 WORLD_SIZE=2 {MASTER}", "LOCAL_WORLD_SIZE is too large"),
        ("WORLD_SIZE=two", "WORLD_SIZE is not a number"),
        ("RANK=-3", "RANK is not a number"),
        ("LOCAL_RANK=x", "LOCAL_RANK is not a number"),
        ("WORLD_SIZE=0", "RANK is too large"),
        ("PMI_SIZE=many", "PMI_SIZE is not a number"),
        ("WORLD_SIZE=2 RANK=0 MASTER_ADDR=n1 MASTER_PORT=tcp://10.0.0.1:80", "MASTER_PORT is not a number"),
        ("OMPI_COMM_WORLD_SIZE=2 OMPI_COMM_WORLD_RANK=0", "do not name these ranks"),
        ("PMI_SIZE=4 PMI_RANK=3", "do not name these ranks"),
        ("MV2_COMM_WORLD_SIZE=2 MV2_COMM_WORLD_RANK=1 RANK=0 WORLD_SIZE=1", "do not name these ranks"),
    ],
)
def test_variables_that_no_launcher_sets_are_named(bare: pytest.MonkeyPatch, words: str, problem: str) -> None:
    for name, value in split(words).items():
        bare.setenv(name, value)

    def check() -> None:
        check_environment()
        check_launch(ONE, 8)

    with pytest.raises(InputError) as caught:
        check()
    message = str(caught.value)
    assert problem in message and "\n" not in message
    assert all(word in message for word in words.split())
    assert message.endswith("unset " + " ".join(name for name in (*RANK, *RENDEZVOUS, *MPI) if name in split(words)))


@pytest.mark.parametrize(
    "words",
    [
        "",
        "RANK= WORLD_SIZE= LOCAL_RANK=",
        "LOCAL_RANK=-1 RANK=-1 WORLD_SIZE=-1",
        "RANK=0",
        f"RANK=0 WORLD_SIZE=1 LOCAL_RANK=0 LOCAL_WORLD_SIZE=1 {MASTER}",
        MASTER,
        "OMPI_COMM_WORLD_SIZE=1 OMPI_COMM_WORLD_RANK=0 OMPI_COMM_WORLD_LOCAL_RANK=0",
        "PMI_SIZE=1 PMI_RANK=0 SLURM_PROCID=1 SLURM_NTASKS=4 SLURM_LOCALID=1",
        "HOROVOD_SIZE=2 HOROVOD_RANK=1 CCL_WORLD_SIZE=2",
    ],
)
def test_variables_of_one_rank_are_not_in_the_way(bare: pytest.MonkeyPatch, words: str) -> None:
    for name, value in split(words).items():
        bare.setenv(name, value)
    check_environment()
    check_launch(ONE, 8)
    assert "LOCAL_RANK" not in os.environ  # accelerate would start a process group


def test_on_a_gpu_each_rank_needs_its_number(bare: pytest.MonkeyPatch) -> None:
    bare.setenv("WORLD_SIZE", "2")
    with pytest.raises(InputError, match="WORLD_SIZE=2: LOCAL_RANK, the number of this rank's GPU, is missing"):
        check_launch(Launch(0, 2, 2, False, "no"), 8)


def test_a_batch_that_does_not_divide(bare: pytest.MonkeyPatch) -> None:
    for name, value in split(f"RANK=0 WORLD_SIZE=3 {MASTER}").items():
        bare.setenv(name, value)
    with pytest.raises(InputError, match="--batch-size 8 does not divide among 3 ranks; --batch-size 9 does"):
        check_launch(Launch(0, 3, 3, True, "no"), 8)
    check_launch(Launch(0, 3, 3, True, "no"), 24, accumulate=4)
    with pytest.raises(
        InputError, match=r"--accumulate 5 does not divide the 8 images of a rank's .*--accumulate 4 does"
    ):
        check_launch(Launch(0, 3, 3, True, "no"), 24, accumulate=5)


CHILD = """
import sys
from trainer.ranks import environment
environment.START = float(sys.argv[1])
try:
    environment.check_environment()
except environment.InputError as error:
    sys.exit(str(error))
print("started", flush=True)
sys.stdin.read()  # a real rank trains on while the others look for it
"""


def ranks(*started: str, start: float) -> list[str]:
    """What each rank says that is started with such variables."""
    inherited = {name: value for name, value in os.environ.items() if name not in (*RANK, *RENDEZVOUS, *MPI)}
    processes = [
        subprocess.Popen([sys.executable, "-c", CHILD + f"# {MASTER}", str(start)], cwd=ROOT,
                         env={**inherited, **split(words)}, text=True,
                         stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for words in started
    ]  # fmt: skip
    for process in processes:
        assert process.stdout is not None
        process.stdout.readline()
    return [process.communicate(timeout=120)[1] for process in processes]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (f"RANK=0 WORLD_SIZE=2 {MASTER}", 2),
        (f"RANK=1 WORLD_SIZE=2 LOCAL_RANK=1 LOCAL_WORLD_SIZE=2 {MASTER}", 2),
        ("RANK=5 WORLD_SIZE=8 LOCAL_WORLD_SIZE=4 MASTER_ADDR=n1 MASTER_PORT=29500", 4),
    ],
)
def test_a_rank_whose_launcher_is_gone_says_so(words: str, expected: int) -> None:
    (said,) = ranks(words, start=0.1)
    assert f": this machine runs 1 of {expected} ranks." in said and said.count("\n") == 1
    assert all(word in said for word in words.split())


def test_ranks_that_are_all_there_start() -> None:
    """As ``mpirun`` and ``srun`` start them; other nodes are not looked at."""
    assert ranks(*(f"RANK={rank} WORLD_SIZE=2 {MASTER}" for rank in (0, 1)), start=60) == ["", ""]
    assert ranks("RANK=0 WORLD_SIZE=2 MASTER_ADDR=n1 MASTER_PORT=29500", start=60) == [""]


@pytest.mark.parametrize(
    ("words", "name"),
    [
        *((f"{variable}=true", name) for variable, name in PLUGINS.items()),
        ("ACCELERATE_DYNAMO_BACKEND=INDUCTOR", "the dynamo backend inductor"),
        ("ACCELERATE_DYNAMO_BACKEND=eager ACCELERATE_USE_FSDP=True", "FSDP, the dynamo backend eager"),
    ],
)
def test_what_accelerates_config_requests_in_vain_is_named(bare: pytest.MonkeyPatch, words: str, name: str) -> None:
    for variable, value in split(words).items():
        bare.setenv(variable, value)
    with pytest.raises(InputError, match=f"requests {name}, which.*--config_file accelerate_config.yaml"):
        check_launch(ONE, 8)


@pytest.mark.parametrize("value", ["no", "NO", ""])
def test_no_dynamo_backend_is_none(bare: pytest.MonkeyPatch, value: str) -> None:
    bare.setenv("ACCELERATE_DYNAMO_BACKEND", value)
    bare.setenv("ACCELERATE_USE_FSDP", "false")
    check_launch(ONE, 8)


@pytest.mark.parametrize(("value", "cpu"), [("on", True), ("Y", True), ("TRUE", True), ("maybe", None), ("2", None)])
def test_the_cpu_is_chosen_by_what_accelerate_takes_for_true(
    bare: pytest.MonkeyPatch, value: str, cpu: bool | None
) -> None:
    bare.setattr("torch.cuda.is_available", lambda: True)
    bare.setenv("ACCELERATE_USE_CPU", value)
    if cpu is None:
        with pytest.raises(InputError, match=f"ACCELERATE_USE_CPU is '{value}'; it must be true or false"):
            read_launch()
    else:
        assert read_launch().cpu == cpu
    bare.setenv("ACCELERATE_USE_CPU", "")
    check_environment()
    assert not read_launch().cpu


def test_the_trainer_refuses_in_one_line(faces32: Path, tmp_path: Path) -> None:
    """Whatever rank the variables name."""
    flags = ["--data.shards", str(faces32), "--out", str(tmp_path / "run"), "--steps", "2", *SMALL]
    for words, start in (
        ("RANK=1", "error (rank 1 on "),
        ("RANK=x", "error (rank x on "),
        ("LOCAL_RANK=0", "error: The environment says "),
        ("OMPI_COMM_WORLD_SIZE=2", "error: The environment says "),
        ("ACCELERATE_USE_FSDP=true", "error: accelerate's config requests FSDP"),
    ):
        done = run(*flags, env={**split(words), "ACCELERATE_USE_CPU": "true"})
        assert done.returncode == 2 and done.stderr.startswith(start) and done.stderr.count("\n") == 1, done.stderr
        assert not (tmp_path / "run").exists()
    alone = f"RANK=0 WORLD_SIZE=1 LOCAL_RANK=0 {MASTER} OMPI_COMM_WORLD_SIZE=1 SLURM_NTASKS=4"
    done = run(*flags, env=split(alone))
    assert done.returncode == 0 and status(tmp_path / "run")["state"] == "done", done.stderr


def test_a_config_whose_processes_are_not_started_is_refused(faces32: Path, tmp_path: Path) -> None:
    (tmp_path / "accelerate").mkdir()
    (tmp_path / "accelerate" / "default_config.yaml").write_text(
        "compute_environment: LOCAL_MACHINE\ndistributed_type: MULTI_CPU\nnum_processes: 4\nuse_cpu: true\n"
    )
    flags = ["--data.shards", str(faces32), "--out", str(tmp_path / "run"), "--steps", "2", *SMALL]
    done = run(*flags, launcher=("-q",), env={"HF_HOME": str(tmp_path)})
    assert "error: accelerate's config requests several processes, and one was started" in done.stderr
    assert done.stderr.count("\n") == 1 and not (tmp_path / "run").exists()
