"""Every command in README.md and docs/ does what it says, and every link leads somewhere.

The commands run from top to bottom, page by page, on what those before them made: as they stand, but that flags which
make a training small come last, where they win.
"""

from __future__ import annotations

import re
import subprocess
import time
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.checkout import make_checkout
from tests.support.faulty import FaultyServer
from tests.support.forks import python
from tests.support.launching import ROOT
from tests.support.pages import FENCE, PAGES, Command, commands
from tests.support.shell import Shell
from trainer.export.folder import CARD, EXAMPLE

Rule = Callable[[Shell, Command], None]

RULES: dict[str, Rule] = {
    r"python -m shards (build|join|index|verify|info) ": Shell.shards,
    r"accelerate launch (--config_file accelerate_config.yaml )?trainer/run.py(?!.* online)": Shell.train,
    r"python -m trainer\.evaluate .* --weights ": Shell.inception,
    r"python -m trainer\.(status|report|explore|evaluate|export|represent) (?!.*--weights )": Shell.module,
    r"python launch/dashboard.py": Shell.dashboard,
    r"launch/single_node.sh ": Shell.single_node,
    r"python -c ": Shell.block,
    r"touch ": Shell.touch,
}
"""What is run for real."""

ELSEWHERE: dict[str, tuple[str, Rule | None]] = {
    r"pip install uv$": ("needs a network; .ci/run begins with it", None),
    r"pytest$": ("this is it", None),
    r"uv sync( --extra \w+)?$": ("needs a network; extras are looked up below", None),
    r"sbatch ": ("tests/system/test_slurm.py submits; here all flags and settings are read", Shell.batch),
    r"accelerate launch --multi_gpu --num_processes 2 ": ("launch/smoke.sh is this command; planned here", Shell.plan),
    r"accelerate launch --multi_gpu --num_processes 8 ": ("needs eight GPUs; planned here", Shell.plan),
    r"accelerate launch trainer/run.py .* online": (
        "needs W&B, as tests/trainer/watch/test_wandb_runs.py has it; planned",
        Shell.plan,
    ),
    r"wandb login$": ("needs an account", Shell.other),
    r"wandb (leet|sync) ": ("needs an account, or a terminal; flags and folders are looked at", Shell.other),
    r"tensorboard ": ("serves until it is stopped; flags and folder are looked at", Shell.other),
}
"""What cannot run here: why, and what is looked at instead."""


@pytest.fixture(scope="module")
def checkout(real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkout(tmp_path_factory.mktemp("docs"), real_data)


def rules_for(command: Command) -> list[Rule | None]:
    every = {**RULES, **{pattern: rule for pattern, (_, rule) in ELSEWHERE.items()}}
    return [rule for pattern, rule in every.items() if re.match(pattern, str(command))]


SHOWN = [command for page in PAGES for command in commands(page)]


def test_every_command_has_one_rule_and_every_rule_a_command() -> None:
    assert [f"{command.place}: {command}" for command in SHOWN if len(rules_for(command)) != 1] == []
    assert [rule for rule in (*RULES, *ELSEWHERE) if not any(re.match(rule, str(command)) for command in SHOWN)] == []


@pytest.mark.timeout(1200)
def test_every_command_runs(checkout: Path) -> None:
    failed, ran = [], 0
    with FaultyServer(checkout / "data") as server:
        shell = Shell(python(), checkout, server.url)
        for command in SHOWN:
            for rule in filter(None, rules_for(command)):
                began = time.monotonic()
                try:
                    rule(shell, command)
                except AssertionError as error:
                    failed.append(f"{command.place}: {command}\n{error}")
                ran += 1
                print(f"{time.monotonic() - began:5.1f} s  {command.place}: {command}")
    assert not failed, "\n\n".join(failed)
    assert ran > len(SHOWN) - 8, "nearly all are run or looked at"


def test_every_extra_is_there() -> None:
    asked = {extra for page in PAGES for extra in re.findall(r"--extra (\w+)", (ROOT / page).read_text())}
    assert (
        asked
        and asked <= tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"].keys()
    )


def test_the_scripts_are_bash() -> None:
    for script in (*(ROOT / "launch").glob("*.s*"), ROOT / ".ci" / "run"):
        subprocess.run(["bash", "-n", script], check=True)


def test_the_readmes_example_is_the_one_on_the_card() -> None:
    readme, card = ((ROOT / "README.md").read_text(), CARD.replace("{where}", "mnist-generator"))
    card = card.replace("{example}", EXAMPLE)
    (ours,), (theirs,) = (
        [fence[2] for fence in FENCE.finditer(text) if fence[1] == "python"] for text in (readme, card)
    )
    assert ours == theirs


def test_every_link_leads_somewhere() -> None:
    pages = {page: (ROOT / page).read_text() for page in (*PAGES, "CONTRIBUTING.md")}
    links = [(page, link) for page, text in pages.items() for link in re.findall(r"\]\((?!https://)([^)\s]+)\)", text)]
    assert len(links) > 20
    for page, link in links:
        path, _, heading = link.partition("#")
        target = (ROOT / page).parent / path if path else ROOT / page
        assert target.exists(), f"{page}: {link}"
        titles = re.findall(r"^#+ (.*)$", target.read_text(), re.MULTILINE) if heading else []
        slugs = {re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in titles}
        assert not heading or heading in slugs, f"{page}: {link}"
    shown = {Path(link).name for _, link in links}
    assert {path.name for path in (ROOT / "docs").iterdir()} - {"images"} <= shown, "a page that nothing leads to"
