"""Runs the commands of the docs, small, and looks at what they leave behind."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path

from PIL import Image

from tests.support.checkout import FACES
from tests.support.forks import LAUNCHER, Python
from tests.support.launching import ROOT, SMALL, status
from tests.support.pages import Command
from trainer.presets import parse

KEY = "c0ffee" * 6 + "c0ff"
"""Of W&B; made up."""


class Shell:
    """What the commands are run by, and in."""

    def __init__(self, python: Python, root: Path, url: str) -> None:
        self.python, self.root, self.url = python, root, url

    def run(self, command: Command, words: list[str], *, code: int = 0, **env: str) -> str:
        swapped = [
            re.sub(r"^https://example\.org", self.url, re.sub("^/data/", f"{self.root}/elsewhere/", word))
            for word in (word.replace("..099}", "..001}") for word in words)
        ]
        done = self.python(*swapped, cwd=self.root, env={"HOME": str(self.root), **command.env, **env})
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr

    def shards(self, command: Command) -> None:
        what = command.words[3]
        more = ["--count", str(FACES)] if command.words[4:5] == ["faces"] else []
        said = self.run(command, command.words[1:] + more)
        shown = {"build": "digest", "join": "digest", "index": "tars at", "verify": "is whole", "info": "sheet"}[what]
        assert shown in said  # so few images are one shard, which is all of part 1
        if command.place.startswith("README") and "flowers" in str(command):  # for whoever has tars of their own
            shutil.copytree(self.root / "data" / "flowers64", self.root / "elsewhere" / "flowers")
            for number, of in enumerate(("celeba64", "flowers64")):
                (self.root / "data" / f"x-00{number}.tar").symlink_to(f"{of}/shard-000000.tar")
            (self.root / "elsewhere" / "flowers" / "manifest.json").unlink()

    def train(self, command: Command) -> None:
        """A real training, with the launcher's own reading of its flags and file."""
        flags = command.words[command.words.index("trainer/run.py") + 1 :]
        watched = "--tracking.board" in flags or not flags
        small = [*self.small(flags), *(["--tracking.mode", "offline"] if watched else [])]
        said = self.run(command, ["-m", LAUNCHER, *command.words[2:], *small])
        out = parse([*flags, *small])[1].out
        assert status(self.root / out)["state"] == "done", said
        assert len([*(self.root / out / "samples").glob("*.png")]) == 3

    def plan(self, command: Command) -> None:
        """What would train, for what needs GPUs, a key or a cluster: all flags are read, and the data looked at."""
        launcher, _, flags = str(command).partition("trainer/run.py")
        words = ["-m", LAUNCHER, *shlex.split(launcher)[2:], "trainer/run.py", *shlex.split(flags)]
        words += [*(self.small(words)), "--dry-run"]
        assert "parameters" in self.run(command, words, WANDB_API_KEY=KEY, ACCELERATE_USE_CPU="true")

    def batch(self, command: Command) -> None:
        """test_slurm.py submits; here sbatch knows its flags, the script its settings, the trainer its own."""
        script = next(n for n, word in enumerate(command.words) if word.startswith("launch/"))
        source = (ROOT / command.words[script]).read_text()
        assert all(f"${{{name}:" in source for name in command.env), "the script knows no such setting"
        conf = self.root / "slurm.conf"
        conf.write_text("ClusterName=x\nSlurmctldHost=localhost\n")
        if command.words[0] == "sbatch" and shutil.which("sbatch"):
            env = {**os.environ, "SLURM_CONF": str(conf)}
            known = subprocess.run(["sbatch", "--help"], env=env, capture_output=True, text=True, check=True).stdout
            for word in command.words[1:script]:
                assert not word.startswith("-") or re.search(rf"{word.partition('=')[0]}\b", known), word
        if "launch/build.sbatch" in command.words:
            return self.build(command, command.words[script + 1 :])
        launcher = command.env.get("LAUNCH", "accelerate launch").partition("accelerate launch")[2].split()
        flags = [*command.words[script + 1 :], *self.small(command.words), "--dry-run"]
        assert "parameters" in self.run(
            Command(command.place, {}, []), ["-m", LAUNCHER, *launcher, "trainer/run.py", *flags]
        )
        return None

    def build(self, command: Command, words: list[str]) -> None:
        """What the data set was built with before."""
        said = self.run(command, ["-m", "shards", "build", *words, "--part", "3", "--parts", "8"])
        assert "was built before" in said

    def single_node(self, command: Command) -> None:
        """Two ranks for real; the other line is the same script with other flags."""
        if "RANKS" not in command.env:
            return self.batch(command)
        words = [*command.words, *self.small(command.words)]
        env = {**os.environ, **command.env, "GPUS": "0"}
        done = subprocess.run(words, cwd=self.root, env=env, capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == 0, done.stderr
        assert "2 CPU ranks" in done.stderr and status(self.root / "runs/single")["state"] == "done"
        return None

    def module(self, command: Command) -> None:
        """What looks at runs; each path that it prints is there."""
        few = {"trainer.represent": ["--train", "80", "--test", "40"], "trainer.evaluate": ["--samples", "100"]}
        said = self.run(command, command.words[1:] + few.get(command.words[2], []))
        paths = re.findall(r"(?:runs/|mnist[-.])[\w./-]+\w", said)
        assert paths and all((self.root / path).exists() for path in paths), said

    def inception(self, command: Command) -> None:
        """Without the weights it says where they are."""
        at = command.words.index("--weights")
        said = self.run(command, [*command.words[1:at], *command.words[at + 2 :]], code=2)
        assert f"/{command.words[at + 1]} and give it as --weights." in said

    def dashboard(self, command: Command) -> None:
        """Online it asks a server that is not there, and says what to do."""
        offline = "--json" in command.words
        nowhere = {"WANDB_BASE_URL": "http://127.0.0.1:9", "HOME": str(self.root)}
        said = self.run(command, command.words[1:], code=0 if offline else 2, **nowhere)
        assert "dashboard.json" in said if offline else "--json FILE" in said

    def other(self, command: Command) -> None:
        """Another project's: it knows the flags, and what it is told to look at is there."""
        name, *words = command.words
        module = {"tensorboard": "tensorboard.main"}.get(name, name)
        known = self.run(command, ["-m", module, *words[: name == "wandb"], "--help"])
        assert all(word.partition("=")[0] in known for word in words if word.startswith("--"))
        assert all([*self.root.glob(word)] for word in words if word.startswith("runs"))

    def touch(self, command: Command) -> None:
        subprocess.run(command.words, cwd=self.root, check=True)

    def small(self, flags: list[str]) -> list[str]:
        """Eight images a step and four features; six steps, or the epochs that were asked for, of few images."""
        length = [] if "--epochs" in flags else ["--steps", "6"]
        return [*SMALL, "--data.workers", "0", "--data.cache", str(self.root / "cache"), *length]

    def block(self, command: Command) -> None:
        """Ten lines of Python, which draw what the export before them holds."""
        self.run(command, command.words[1:])
        with Image.open(self.root / "samples.png") as picture:
            assert picture.size == (8 * 32, 32) and picture.mode == "L"
