"""What a person, and a program, must know to use an exported generator."""

from __future__ import annotations

from typing import Any

from trainer.folder.load_run import LoadedRun

INPUT, OUTPUT = "latents", "images"
"""The names of an exported generator's one input and one output."""


def facts(run: LoadedRun) -> dict[str, Any]:
    """JSON-ready: how to build the network, what goes in and comes out, how it was trained. No paths, no host names."""
    config, (channels, size) = run.config, run.shape
    return {
        "kind": config.model.kind,
        "size": size,
        "channels": channels,
        "z_dim": config.model.z_dim,
        "features": config.model.features_g,
        "architecture": f"{run.generator.title} generator ({run.generator.paper})",
        "input": {
            "name": INPUT,
            "shape": ["batch", config.model.z_dim],
            "dtype": "float32",
            "distribution": "N(0, 1), every value drawn alone",
        },
        "output": {
            "name": OUTPUT,
            "shape": ["batch", channels, size, size],
            "dtype": "float32",
            "range": [-1, 1],
        },
        "batch_norm": "eval: running statistics, so an image does not depend on others in its batch",
        "weights": "moving average" if config.ema_images else "of the last step",
        "training": {
            "step": run.step,
            "images": run.position,
            "data": run.facts.get("data", "unknown"),
            "data_digest": run.facts.get("manifest", "unknown"),
            "precision": run.facts.get("precision", "unknown"),
            "batch_size": config.batch_size,
            "loss": config.loss,
            "seed": config.seed,
        },
    }


def model_card(known: dict[str, Any], where: str) -> str:
    """The README.md of an export that others will load from ``where``; ``known`` is what :func:`facts` says."""
    training = "\n".join(f"| {name.replace('_', ' ')} | {value} |" for name, value in known["training"].items())
    return CARD.format(**{**known, "where": where, "training": training})


CARD = """---
library_name: shardgan
pipeline_tag: unconditional-image-generation
tags: [gan, {kind}, pytorch]
---

# {architecture} of {size}x{size} images

Trained with shardgan, which has to be installed. Eight samples:

```python
import numpy as np
import torch
from PIL import Image
from trainer.hub import Generator
from trainer.samples import generate, to_pixels

generator = Generator.from_pretrained("{where}")
latents = torch.randn(8, generator.z_dim, generator=torch.Generator().manual_seed(0))
pixels = to_pixels(generate(generator, latents))  # uint8 (8, height, width, channels)
Image.fromarray(np.hstack(list(pixels)).squeeze()).save("samples.png")
```

| | |
| --- | --- |
| input | {input[dtype]} (batch, {z_dim}), {input[distribution]} |
| output | {output[dtype]} (batch, {channels}, {size}, {size}) in [-1, 1] |
| BatchNorm | {batch_norm} |
| weights | {weights} |

## Training

| | |
| --- | --- |
{training}

## Licence

Not stated yet: add `license:` to the head of this file. What the training images allow binds you too.
"""
