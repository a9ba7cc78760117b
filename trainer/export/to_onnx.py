"""Exports a generator as one ONNX file, which needs neither torch nor this project, and compares it with torch."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch

from shards.common.errors import InputError
from trainer.export.folder import INPUT, LABELS, OUTPUT
from trainer.gan.networks import Generator
from trainer.gan.noise import latents

OPSET = 18  # The version that torch's exporter writes without conversion; runtimes since 2023 support it.
TOLERANCE = 1e-4  # Largest accepted difference from torch of a value in [-1, 1]; a step of 8 bits is 8e-3.


def to_onnx(generator: Generator, metadata: dict[str, Any]) -> bytes:
    """Returns the ONNX file of ``generator``, float32 and in ``eval`` mode, for any batch size, with ``metadata``.

    Uses the exporter based on ``torch.export``, which also folds BatchNorm into the convolutions; the one based on
    TorchScript is deprecated. The first call takes 6 s. Raises ``InputError`` if onnxruntime makes other images.
    """
    # Batch sizes 0 and 1 would be taken for constants.
    example = (torch.zeros(2, generator.z_dim), *([torch.zeros(2, dtype=torch.int64)] if generator.classes else []))
    program = torch.onnx.export(
        generator,
        example,
        dynamo=True,
        verbose=False,
        input_names=[INPUT, LABELS][: len(example)],
        output_names=[OUTPUT],
        dynamic_shapes=({0: torch.export.Dim("batch")},) * len(example),
        opset_version=OPSET,
    )
    assert program is not None  # None only from the TorchScript exporter
    model = program.model_proto
    for entry in (*model.graph.node, *model.graph.input, *model.graph.output, *model.graph.initializer):
        entry.ClearField("metadata_props")  # stack traces with paths of this machine
    onnx.helper.set_model_props(model, {name: json.dumps(value) for name, value in metadata.items()})
    onnx.checker.check_model(model, full_check=True)
    data: bytes = model.SerializeToString()
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    for batch in (1, 5):
        noise = latents(0, 0, batch, generator.z_dim).float()
        labels = torch.arange(batch) % generator.classes if generator.classes else None
        inputs = {INPUT: noise.numpy(), **({} if labels is None else {LABELS: labels.numpy()})}
        (images,) = session.run([OUTPUT], inputs)
        error = float(np.abs(images - generator(noise, labels).detach().numpy()).max())
        if not error <= TOLERANCE:
            raise InputError(
                f"Images from onnxruntime {onnxruntime.__version__} differ from torch's by {error:.1e}, more than "
                f"{TOLERANCE:.0e}; nothing was written. Export as safetensors, or try another onnxruntime."
            )
    return data
