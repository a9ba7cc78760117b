"""``python -m trainer.export RUN OUT``: the command line."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tyro.conf import Positional

from shards.common.errors import InputError, require
from shards.common.files import atomic_write, recover_folder
from trainer.cli import check_free, conclude, parse_command
from trainer.export.folder import FILES, describe, write_folder


@dataclass(frozen=True)
class Export:
    """Export the generator of a run: float32, in eval mode, averaged weights if the run keeps an average.

    Format safetensors is a folder for `from trainer.hub import Generator; Generator.from_pretrained("OUT")`. Format
    onnx is one file for any ONNX runtime, which is compared with torch before it is written.

    Example: python -m trainer.export runs/mnist mnist.onnx --format onnx
    """

    run: Positional[Path]
    """Run folder."""
    out: Positional[Path]
    """Folder (safetensors) or file (onnx) to write."""
    format: Literal["safetensors", "onnx"] = "safetensors"
    """Format of OUT; onnx needs an extra: uv sync --extra export."""
    checkpoint: Path | None = None
    """Checkpoint of RUN to use: best, or a name such as step-000000480; if not given, the newest whole one."""
    force: bool = False
    """Replace OUT if it exists and is an exported folder, or a file *.onnx."""
    push: str | None = None
    """Also upload OUT to this repository on the Hugging Face Hub, such as me/mnist-dcgan. A new repository is private.
    Log in before with: hf auth login."""


def export(options: Export) -> None:
    """Exports as ``options`` say; raises ``InputError`` if that cannot be done, or if only the upload failed."""
    check(options)
    # Not at the top: torch takes seconds to import, which --help and a typo should not wait for.
    from trainer.folder.load_run import load_run

    loaded = load_run(options.run, options.checkpoint)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    if options.format == "onnx":
        from trainer.export.to_onnx import to_onnx

        data = to_onnx(loaded.generator.float(), describe(loaded))
        with atomic_write(options.out) as file:
            file.write(data)
    else:
        write_folder(loaded, options.out, options.push)
    print(f"{options.out} holds the generator of {loaded.checkpoint.name} of {options.run}.", file=sys.stderr)
    if options.push:
        from trainer.hub import push

        print(f"Uploaded to {push(options.out, options.push)}.", file=sys.stderr)


def check(options: Export) -> None:
    """Raises ``InputError`` for what can be known to fail before the run is loaded."""
    out = options.out
    if out.name in ("", ".."):
        raise InputError(f"{out} cannot be replaced. Give the name of something new.")
    if options.format == "onnx":
        require("export", "onnx", "onnxscript", "onnxruntime")
    if options.push:
        from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]  # public, but not in its stubs

        try:
            validate_repo_id(options.push)
        except ValueError as error:
            raise InputError(f"--push {options.push}: {error} Give a repository such as me/mnist-dcgan.") from error
    if options.format == "safetensors":
        recover_folder(out)  # after a kill in the middle of a replacement, the old export exists again
    check_free([out], force=options.force)
    if options.format == "onnx":
        replaceable = out.is_file() and out.suffix == ".onnx"
    else:
        replaceable = out.is_dir() and {entry.name for entry in out.iterdir()} <= FILES
    if out.exists() and not replaceable:
        raise InputError(
            f"{out} is not an export of format {options.format}, so --force does not replace it. Give another name."
        )
    if options.format == "onnx" and out.suffix != ".onnx":
        raise InputError(f"{out}: the name of an ONNX file must end in .onnx.")


if __name__ == "__main__":
    sys.exit(conclude(lambda: export(parse_command(Export, "export"))))
