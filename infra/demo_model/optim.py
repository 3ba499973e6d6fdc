"""Muon for the matrices inside the blocks, AdamW for all other parameters, and an average of the weights."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from infra.demo_model.precision import compute_dtype


def orthogonalise(g: Tensor, steps: int = 5) -> Tensor:
    """Return roughly the nearest semi-orthogonal matrices to `g` (batch, rows, columns), in float32.

    The quintic Newton-Schulz iteration of Muon, with its coefficients: singular values end between about 0.7 and 1.2.
    """
    x = g.to(compute_dtype())
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    tall = x.shape[-2] > x.shape[-1]
    x = x.mT if tall else x
    for _ in range(steps):
        gram = x @ x.mT
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    result: Tensor = (x.mT if tall else x).float()
    return result


class Muon(torch.optim.Optimizer):
    """Nesterov momentum, orthogonalised, with decoupled weight decay (Jordan et al. 2024).

    https://kellerjordan.github.io/posts/muon/. The update of a matrix taller than wide is scaled by
    sqrt(rows / columns). A matrix of n square blocks below one another (qkv: n = 3) is orthogonalised block by block.
    The keys `momentum` and `decay` are stored in training states.
    """

    def __init__(
        self, parameters: Iterable[nn.Parameter], lr: float, momentum: float = 0.95, decay: float = 0.01
    ) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": momentum, "decay": decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]  # noqa: ARG002
        """Update every parameter that has a gradient."""
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                state: dict[str, Any] = self.state[p]
                if "momentum" not in state:
                    state["momentum"] = torch.zeros_like(p)
                state["momentum"].lerp_(p.grad, 1 - group["momentum"])
                g = p.grad.lerp(state["momentum"], group["momentum"])
                blocks = p.shape[0] // p.shape[1] if p.shape[0] % p.shape[1] == 0 else 1
                update = orthogonalise(g.view(blocks, -1, p.shape[1])).view_as(p)
                p.mul_(1 - group["lr"] * group["decay"])
                p.add_(update, alpha=-group["lr"] * max(1, p.shape[0] / blocks / p.shape[1]) ** 0.5)


Optimisers = tuple[Muon, torch.optim.AdamW]


def build_optimisers(modules: Sequence[nn.Module], muon_lr: float, adamw_lr: float) -> Optimisers:
    """Return the optimisers of all parameters of `modules`: Muon for matrices of blocks, AdamW for the others.

    AdamW is that of Loshchilov and Hutter (arXiv:1711.05101), here without weight decay.
    """
    named = [(n, p) for m in modules for n, p in m.named_parameters() if p.requires_grad]
    matrices = [p for n, p in named if p.ndim == 2 and is_block_parameter(n)]
    chosen = {id(p) for p in matrices}
    others = [p for _, p in named if id(p) not in chosen]
    return Muon(matrices, muon_lr), torch.optim.AdamW(others, adamw_lr, betas=(0.9, 0.98), weight_decay=0.0)


def is_block_parameter(name: str) -> bool:
    """Return whether the parameter belongs to a block or to mlp1, not to embeddings, heads or the output."""
    return "layers." in name or "mlp1." in name


def set_learning_rates(optimisers: Optimisers, peak_rates: tuple[float, float], factor: float) -> None:
    """Set the learning rates of Muon and AdamW to their peaks times `factor`."""
    for optimiser, rate in zip(optimisers, peak_rates, strict=True):
        for group in optimiser.param_groups:
            group["lr"] = rate * factor


class WeightAverage:
    """Exponential moving average of a module's weights.

    Its decay rises from 2/11 with the number of updates to `max_decay`, so the first weights are soon forgotten.
    """

    def __init__(self, module: nn.Module, max_decay: float = 0.998) -> None:
        self.max_decay, self.updates = max_decay, 0
        self.weights = {k: v.detach().clone() for k, v in module.state_dict().items()}

    @torch.no_grad()
    def update(self, module: nn.Module) -> None:
        """Move the average towards the weights of `module`."""
        self.updates += 1
        weight = 1 - min(self.max_decay, (1 + self.updates) / (10 + self.updates))
        for k, v in module.state_dict().items():
            self.weights[k].lerp_(v, weight)
