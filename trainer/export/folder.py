"""Writes a generator as a folder of weights, config.json and a model card, for :mod:`trainer.hub` to load."""

from __future__ import annotations

import html
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shards.common.files import atomic_folder

if TYPE_CHECKING:  # torch takes seconds to import
    from trainer.folder.load_run import LoadedRun

INPUT, LABELS, OUTPUT = "latents", "labels", "images"  # names in an export
BATCH_NORM = "eval: running statistics, so that an image does not depend on the others of its batch"
ARCHITECTURE = ("size", "channels", "z_dim", "features", "kind", "upsampling", "class_names")
FILES = {"README.md", "model.safetensors", "config.json"}


def write_folder(loaded: LoadedRun, out: Path, repository: str | None = None) -> dict[str, Any]:
    """Writes the generator of ``loaded`` as the folder ``out``, atomically; returns its metadata.

    The example on the card loads it from ``repository``, by default from the folder's name.
    """
    from trainer.hub import Generator  # not at the top: it takes 0.2 s at the start of a training

    metadata = describe(loaded)
    generator = Generator(**{name: metadata[name] for name in ARCHITECTURE})
    generator.load_state_dict(loaded.generator.state_dict())  # copies, and so converts to float32
    with atomic_folder(out) as folder:
        # First, because the mixin writes a card of its own where there is none.
        (folder / "README.md").write_text(_write_card(metadata, repository or out.name), "utf-8")
        generator.save_pretrained(folder, config=metadata)
    return metadata


def describe(run: LoadedRun) -> dict[str, Any]:
    """Metadata of an export, JSON-ready: architecture, input, output and training. No paths, no host names."""
    from trainer.gan.networks import has_batch_norm  # not at the top: torch takes seconds to import

    config, (channels, size), z_dim = run.config, run.shape, run.config.model.z_dim
    noise = "N(0, 1), independent values"
    return {
        "kind": config.model.kind,
        "size": size,
        "channels": channels,
        "z_dim": z_dim,
        "features": config.model.features_g,
        "upsampling": config.model.upsampling,
        "class_names": [*run.classes],
        "architecture": f"{run.generator.title} generator ({run.generator.paper})",
        "input": {"name": INPUT, "shape": ["batch", z_dim], "dtype": "float32", "distribution": noise},
        **({"labels": {"name": LABELS, "shape": ["batch"], "dtype": "int64"}} if run.classes else {}),
        "output": {"name": OUTPUT, "shape": ["batch", channels, size, size], "dtype": "float32", "range": [-1, 1]},
        **({"batch_norm": BATCH_NORM} if has_batch_norm(run.generator) else {}),
        "weights": "moving average" if config.ema_images else "of the last step",
        "training": {
            "step": run.step,
            "images": run.position,
            "data": run.metadata.get("data", "unknown"),
            "data_digest": run.metadata.get("manifest", "unknown"),
            "precision": run.metadata.get("precision", "unknown"),
            "batch_size": config.batch_size,
            "loss": config.loss,
            "seed": config.seed,
        },
    }


def _write_card(metadata: dict[str, Any], where: str) -> str:
    """The model card; its example loads the generator from ``where``."""
    rows = "\n".join(f"| {name.replace('_', ' ')} | {_cell(value)} |" for name, value in metadata["training"].items())
    texts = {"where": _quoted(where), "training": rows, "labels": "", "example": EXAMPLE, "tags": "", "batch_norm": ""}
    texts["task"] = "pipeline_tag: unconditional-image-generation\n"
    if names := metadata["class_names"]:
        texts |= {"labels": LABELS_ROW.format(_cell(_numbered(names))), "example": EXAMPLE_OF_CLASSES}
        texts |= {"tags": "class-conditional, ", "task": ""}  # the Hub knows no such task
    if "batch_norm" in metadata:
        texts["batch_norm"] = f"| BatchNorm | {metadata['batch_norm']} |\n"
    return CARD.format(**metadata | texts)


def _numbered(names: Sequence[str]) -> str:
    return ", ".join(f"{number} {name}" for number, name in enumerate(names))


def _quoted(text: str) -> str:
    """``text`` inside the quotes of a Python string that ends no block of Markdown or HTML, in any encoding."""
    return "".join(char if char.isprintable() and char not in '"\\`<' else f"\\U{ord(char):08x}" for char in text)


def _cell(value: object) -> str:
    """``value`` in a table of Markdown."""
    text = html.escape(" ".join(str(value).split()), quote=False).replace("|", "&#124;").replace("`", "&#96;")
    return text.encode("utf-8", "backslashreplace").decode()


EXAMPLE = "pixels = to_pixels(generate(generator, latents))  # uint8 (8, height, width, channels)"
EXAMPLE_OF_CLASSES = """labels = torch.arange(8) % len(generator.class_names)  # one of each of the first classes
pixels = to_pixels(generate(generator, latents, labels=labels))  # uint8 (8, height, width, channels)"""
LABELS_ROW = "| labels | int64 (batch,), numbers of classes: {} |\n"
CARD = """---
library_name: shardgan
{task}tags: [gan, {tags}{kind}, pytorch]
---

# {architecture} of {size}x{size} images

Trained with shardgan, which has to be installed. This example draws eight samples:

```python
import numpy as np
import torch
from PIL import Image
from trainer.hub import Generator
from trainer.samples import generate, to_pixels

generator = Generator.from_pretrained("{where}")
latents = torch.randn(8, generator.z_dim, generator=torch.Generator().manual_seed(0))
{example}
Image.fromarray(np.hstack(list(pixels)).squeeze()).save("samples.png")
```

| | |
| --- | --- |
| input | {input[dtype]} (batch, {z_dim}), {input[distribution]} |
| output | {output[dtype]} (batch, {channels}, {size}, {size}) in [-1, 1] |
{labels}{batch_norm}| weights | {weights} |

## Training

| | |
| --- | --- |
{training}

## Licence

Not stated yet: add `license:` to the metadata of this file. The licence of the training images applies too.
"""
