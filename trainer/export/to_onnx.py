"""The generator as one ONNX file, which needs neither torch nor this project, held against torch before it is used."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch

from shards.common.errors import InputError
from trainer.export.card import INPUT, OUTPUT
from trainer.gan.networks import Generator
from trainer.gan.noise import latents

OPSET = 18
"""The one that torch's exporter writes by itself, so that nothing is converted; every runtime since 2023 reads it."""

TOLERANCE = 1e-4
"""Most that a value of an image, in [-1, 1], may differ from torch's; a step of 8 bits is 8e-3."""


def to_onnx(generator: Generator, known: dict[str, Any]) -> bytes:
    """The model file of ``generator``, float32 and in ``eval`` mode, for any batch; ``known`` goes into its metadata.

    By the exporter that is built on ``torch.export``: the older one, on TorchScript, warns that it will be removed, and
    this one folds BatchNorm into the convolutions besides. Its first call costs 6 s.

    Raises:
        InputError: onnxruntime makes other images of it than torch.
    """
    example = torch.zeros(2, generator.z_dim)  # 0 and 1 would be taken for constants
    program = torch.onnx.export(
        generator,
        (example,),
        dynamo=True,
        verbose=False,
        input_names=[INPUT],
        output_names=[OUTPUT],
        dynamic_shapes=({0: torch.export.Dim("batch")},),
        opset_version=OPSET,
    )
    assert program is not None  # torch's signature covers the older exporter too
    model = program.model_proto
    for entry in (*model.graph.node, *model.graph.input, *model.graph.output, *model.graph.initializer):
        entry.ClearField("metadata_props")  # stack traces: the paths of this machine
    onnx.helper.set_model_props(model, {name: json.dumps(value) for name, value in known.items()})
    onnx.checker.check_model(model, full_check=True)
    data: bytes = model.SerializeToString()
    for batch in (1, 5):
        _compare(data, generator, latents(0, 0, batch, generator.z_dim).float())
    return data


@torch.no_grad()
def _compare(data: bytes, generator: Generator, noise: torch.Tensor) -> None:
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    (images,) = session.run([OUTPUT], {INPUT: noise.numpy()})
    error = float(np.abs(images - generator(noise).numpy()).max())
    if not error <= TOLERANCE:
        raise InputError(
            f"onnxruntime {onnxruntime.__version__} makes images that differ from torch's by {error:.1e}, more than "
            f"{TOLERANCE:.0e}, so nothing was written. Export as safetensors, or try another onnxruntime."
        )
