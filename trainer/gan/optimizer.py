"""Adam on PyTorch's fused kernel.

With ``torch.optim.Adam``, which imports ``torch._dynamo``, every start and every resume would take 1.5 to 3 s longer.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.optim.adam import adam

Tensors = dict[str, torch.Tensor]


class Adam:
    """Adam for the parameters of one network (Kingma and Ba, arXiv 1412.6980). Works with ``torch.amp.GradScaler``."""

    _step_supports_amp_scaling = True
    """Tells ``torch.amp.GradScaler`` that the kernel unscales gradients and skips overflows without a host sync."""

    def __init__(self, network: nn.Module, rate: float, betas: tuple[float, float]) -> None:
        self._named = dict(network.named_parameters())
        self._parameters = list(self._named.values())
        device = self._parameters[0].device
        # On the device, where a recorded CUDA graph reads it; CUDA's kernel takes float32.
        self._rate = torch.tensor(rate, dtype=torch.float32 if device.type == "cuda" else torch.float64, device=device)
        self._betas = betas
        self.param_groups = [{"params": self._parameters}]
        # In the memory layout of the weights, because the kernel iterates over memory, not indices.
        self._means = [torch.zeros_like(p, requires_grad=False) for p in self._parameters]
        self._squares = [torch.zeros_like(p, requires_grad=False) for p in self._parameters]
        self._steps = [torch.zeros((), device=p.device) for p in self._parameters]
        self.skipped = torch.zeros((), device=device)
        """Number of steps skipped because of a float16 overflow since the process started, on the device."""

    def tune(self, rate: float, betas: tuple[float, float]) -> None:
        """Change the learning rate and the decay rates."""
        self._rate.fill_(rate)
        self._betas = betas

    def zero_grad(self) -> None:
        """Set the gradients to None."""
        for parameter in self._parameters:
            parameter.grad = None

    @torch.no_grad()
    def step(self) -> None:
        """Update the weights. Raises ``RuntimeError`` if a weight has no gradient."""
        scaling: dict[str, torch.Tensor] = vars(self)  # the scaler sets two attributes during this call
        overflow = scaling.get("found_inf")
        if overflow is not None:
            self.skipped += overflow
        gradients = [p.grad for p in self._parameters if p.grad is not None]
        if len(gradients) < len(self._parameters):
            raise RuntimeError("step() without a backward pass through the whole network")
        adam(
            [p.detach() for p in self._parameters],
            gradients,
            self._means,
            self._squares,
            [],
            self._steps,
            fused=True,
            grad_scale=scaling.get("grad_scale"),
            found_inf=overflow,
            amsgrad=False,
            beta1=self._betas[0],
            beta2=self._betas[1],
            lr=self._rate,
            weight_decay=0.0,
            eps=1e-8,
            maximize=False,
        )

    def tensors(self) -> Tensors:
        """The moving averages and step counts by name of the weight, not copied."""
        parts = {"step": self._steps, "exp_avg": self._means, "exp_avg_sq": self._squares}
        return {
            f"{name}.{part}": tensor
            for part, tensors in parts.items()
            for name, tensor in zip(self._named, tensors, strict=True)
        }

    def load(self, tensors: Tensors) -> None:
        """Copy the values of :meth:`tensors`, from any device and memory layout.

        Raises ``RuntimeError`` if the tensors are those of another network.
        """
        mine = self.tensors()
        if mine.keys() != tensors.keys():
            raise RuntimeError(f"the optimizer's tensors differ by name: {sorted(mine.keys() ^ tensors.keys())[:3]}")
        for name, tensor in mine.items():
            tensor.copy_(tensors[name])
