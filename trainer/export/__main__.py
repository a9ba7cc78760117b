"""``python -m trainer.export RUN OUT``: a run's generator for other programs."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import tyro
from tyro.conf import DisallowNone, FlagCreatePairsOff, Positional, PositionalMetavarFromFieldName

from shards.common.errors import InputError
from shards.common.files import atomic_folder, atomic_write, recover_folder
from trainer.cli import conclude, require

if TYPE_CHECKING:
    from trainer.folder.load_run import LoadedRun

CARD, WEIGHTS = "README.md", "model.safetensors"
NAMES = {CARD, WEIGHTS, "config.json"}
"""What a folder of safetensors holds."""


@dataclass(frozen=True)
class Export:
    """Write a run's generator for other programs: the averaged one if the run keeps an average, float32, its BatchNorm
    in eval mode.

    safetensors makes a folder that `from trainer.hub import Generator; Generator.from_pretrained("OUT")` loads; onnx
    makes one file for any ONNX runtime, held against torch before it is published.

    Example: python -m trainer.export runs/mnist mnist.onnx --format onnx
    """

    run: Positional[Path]
    """Folder of the run."""
    out: Positional[Path]
    """Folder (safetensors) or file (onnx) to write."""
    format: Literal["safetensors", "onnx"] = "safetensors"
    """onnx needs the extra: uv sync --extra export."""
    checkpoint: Path | None = None
    """The checkpoint of RUN to take, such as step-000000480; the newest whole one unless given."""
    force: bool = False
    """Replace OUT if it exists."""
    push: str | None = None
    """Also upload what was written to this repository on the Hugging Face Hub, such as me/mnist-dcgan. One that is not
    there yet is made, private. Log in before: hf auth login."""


def run(asked: Export) -> None:
    """Do what was ``asked``.

    Raises:
        InputError: no run or no checkpoint there, OUT is taken, the extra is missing, or the Hub refuses.
    """
    _check(asked)
    # Not at the top: torch takes seconds to import, and --help or a typo should not wait for it.
    from trainer.folder.load_run import load_run

    loaded = load_run(asked.run, asked.checkpoint)
    asked.out.parent.mkdir(parents=True, exist_ok=True)
    if asked.format == "onnx":
        from trainer.export.card import facts
        from trainer.export.to_onnx import to_onnx

        data = to_onnx(loaded.generator.float(), facts(loaded))
        with atomic_write(asked.out) as file:
            file.write(data)
    else:
        write(loaded, asked.out, asked.push)
    print(f"{asked.out} holds the generator of {loaded.checkpoint.name} of {asked.run}.", file=sys.stderr)
    if asked.push:
        from trainer.hub import push

        print(f"It is at {push(asked.out, asked.push)} now.", file=sys.stderr)


def _check(asked: Export) -> None:
    """Whatever can be known to go wrong before seconds are spent."""
    out, whole = asked.out, asked.format == "safetensors"
    if not whole:
        require("export", "onnx", "onnxscript", "onnxruntime")
    if asked.push:
        from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]  # public, but not in its stubs

        try:
            validate_repo_id(asked.push)
        except ValueError as error:
            raise InputError(f"--push {asked.push}: {error} A repository is named like me/mnist-dcgan.") from error
    if not out.name:
        raise InputError(f"{out} cannot be replaced. Give the name of something new.")
    if whole:
        recover_folder(out)
    if not out.exists():
        return
    if not asked.force:
        raise InputError(f"{out} exists and is kept. Give another name, or --force to replace it.")
    if not (_is_export(out) if whole else _is_onnx(out)):
        wanted = f"a folder of {', '.join(sorted(NAMES))} alone" if whole else "an ONNX model, or a file named *.onnx"
        raise InputError(
            f"{out} is not an export of this format ({wanted}), so --force does not replace it. Give another name."
        )


def _is_export(path: Path) -> bool:
    return path.is_dir() and {entry.name for entry in path.iterdir()} <= NAMES


def _is_onnx(path: Path) -> bool:
    """By its name, or else by what is in it."""
    if not path.is_file() or path.suffix == ".onnx":
        return path.is_file()
    import onnx
    from google.protobuf.message import DecodeError

    try:
        model = onnx.load(path, load_external_data=False)
    except DecodeError:
        return False
    return bool(model.ir_version and model.graph.node)  # any bytes may happen to be a message without known fields


def write(loaded: LoadedRun, out: Path, where: str | None = None) -> dict[str, Any]:
    """The generator of ``loaded`` as the folder ``out``; its card tells to load it from ``where``, or from the folder's
    name. Returns what config.json says of it.
    """
    from trainer.export.card import facts, model_card
    from trainer.hub import Generator

    known = facts(loaded)
    generator = Generator(known["size"], known["channels"], known["z_dim"], known["features"], known["kind"])
    generator.network.load_state_dict(loaded.generator.state_dict())  # to float32
    with atomic_folder(out) as folder:
        (folder / CARD).write_text(model_card(known, where or out.name))  # there, the mixin writes none of its own
        generator.save_pretrained(folder, config=known)
        (folder / WEIGHTS).chmod((folder / CARD).stat().st_mode)  # safetensors lets its owner alone read it
    return known


def main() -> int:
    """Parse, run, and turn what went wrong into one line and an exit code."""
    config = (DisallowNone, FlagCreatePairsOff, PositionalMetavarFromFieldName)
    return conclude(lambda: run(tyro.cli(Export, prog="python -m trainer.export", config=config)))


if __name__ == "__main__":
    sys.exit(main())
