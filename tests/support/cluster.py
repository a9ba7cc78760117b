"""A real SLURM cluster on the loopback, two nodes and a spare, in a folder of its own."""

from __future__ import annotations

import getpass
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

import psutil

NODES = ("n1", "n2", "spare")
PATH = os.environ["PATH"] + ":/usr/sbin:/sbin"  # where Debian keeps the daemons, and a user's PATH does not look
MISSING = [name for name in ("munged", "slurmctld", "slurmd", "sbatch") if not shutil.which(name, path=PATH)]

CONF = """
ClusterName=loopback
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser={user}
SlurmdUser={user}
AuthInfo=socket={folder}/munge.socket
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/%n.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
MailProg=/bin/true
ReturnToService=2
SlurmdTimeout=10
SchedulerParameters=sched_interval=1,bf_interval=1,batch_sched_delay=1
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=1
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=1
NodeName=spare NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[3]} CPUs=1 Weight=2
PartitionName=all Nodes=ALL Default=YES
"""


class Cluster:
    """Runs while the context is entered; everything of it is killed at the end."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._env = {**os.environ, "PATH": PATH, "SLURM_CONF": str(folder / "slurm.conf")}
        self._daemons: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Cluster:
        for name in ("state", *NODES):
            (self.folder / name).mkdir()
        conf = CONF.format(folder=self.folder, host=socket.gethostname(), user=getpass.getuser(), ports=free_ports(4))
        (self.folder / "slurm.conf").write_text(conf)
        key = self.folder / "munge.key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o400)
        files = [f"--{name}-file={self.folder}/munge.{name}" for name in ("key", "pid", "log", "seed")]
        # Forced: it warns of the temporary folder's permissions and would not start.
        self._start("munged", "--foreground", "--force", f"--socket={self.folder}/munge.socket", *files)
        until((self.folder / "munge.socket").exists, 10)
        self._start("slurmctld", "-D")
        for node in NODES:
            self._start("slurmd", "-D", "-N", node, name=node)
        until(lambda: self("sinfo", "--noheader", "--format=%T") == "idle", 30)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        kill([found for node in NODES for found in self._processes(node)])
        for daemon in self._daemons.values():
            daemon.kill()
            daemon.wait()

    def __call__(self, *words: str, **env: str) -> str:
        """What a command of SLURM's prints."""
        done = subprocess.run(
            words, env={**self._env, **env}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
        )
        assert done.returncode == 0, f"{words}: {done.stdout}"
        return done.stdout.strip()

    def tell(self, number: str) -> str:
        """What the controller makes of a job and of its nodes, for a failure's message."""
        log = (self.folder / "slurmctld.out").read_text().splitlines()[-40:]
        return "\n".join([self("scontrol", "show", "job", number), self("sinfo", "-N", "-l"), *log])

    def pull_the_plug(self, node: str) -> None:
        """Kill all that runs on ``node``, without a word to the controller."""
        daemon = self._daemons.pop(node)
        daemon.kill()
        daemon.wait()
        kill(self._processes(node))

    def job(self, number: str) -> dict[str, str]:
        """What ``scontrol show job`` knows: JobState, Restarts, Reason and so on."""
        return dict(word.split("=", 1) for word in self("scontrol", "show", "job", "-o", number).split() if "=" in word)

    def start_now(self, number: str) -> None:
        """Start a job that was requeued, which SLURM else holds back for two minutes.

        A node should refuse a credential of the second in which it revoked the job's last one, and the job would be
        held: hence a few seconds from when its processes have left every node.
        """

        def free() -> bool:
            facts = self.job(number)
            return facts["Reason"] == "BeginTime" and facts["JobState"] == "PENDING"

        until(free, 90)
        self("scontrol", "update", f"jobid={number}", "StartTime=now+3", "TimeLimit=60")

    def _start(self, program: str, *words: str, name: str = "") -> None:
        with (self.folder / f"{name or program}.out").open("ab") as out:
            self._daemons[name or program] = subprocess.Popen(
                [program, *words], env=self._env, stdout=out, stderr=out, start_new_session=True
            )

    def _processes(self, node: str) -> list[psutil.Process]:
        """The jobs' processes on ``node``, and the slurmstepd over each."""
        found = set()
        for process in psutil.process_iter():
            try:
                env = process.environ()
                if (env.get("SLURM_CONF"), env.get("SLURMD_NODENAME")) == (self._env["SLURM_CONF"], node):
                    found |= {process, *(over for over in process.parents() if over.name() == "slurmstepd")}
            except psutil.Error:
                continue
        return list(found)


def until(true: Callable[[], bool], seconds: float, every: float = 0.5) -> None:
    """Wait until it is ``true``; asking the controller is not cheap, so do it rarely."""
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, f"not in {seconds} s"
        time.sleep(every)


def free_ports(count: int) -> list[int]:
    """Ports that nobody listened at a moment ago."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [server.getsockname()[1] for server in sockets]
    for server in sockets:
        server.close()
    return ports


def kill(processes: list[psutil.Process]) -> None:
    """Kill all of them at once."""
    for process in processes:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue
    psutil.wait_procs(processes, timeout=10)
