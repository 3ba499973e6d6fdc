"""Muon for the matrices inside the blocks, Adam for everything else, and an average of the weights."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from infra.demo_model.precision import compute_dtype


def orthogonalise(g: Tensor, steps: int = 5) -> Tensor:
    """Return about the nearest orthogonal matrix, by Newton-Schulz iteration, for a batch of matrices."""
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
    """Momentum, orthogonalised: every direction of a matrix moves at the same rate."""

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
                parts = p.shape[0] // p.shape[1] if p.shape[0] % p.shape[1] == 0 else 1  # q, k and v apart
                update = orthogonalise(g.view(parts, -1, p.shape[1])).view_as(p)
                p.mul_(1 - group["lr"] * group["decay"])
                p.add_(update, alpha=-group["lr"] * max(1, p.shape[0] / parts / p.shape[1]) ** 0.5)


Optimisers = tuple[Muon, torch.optim.AdamW]


def build_optimisers(modules: Sequence[nn.Module], muon_lr: float, adam_lr: float) -> Optimisers:
    """Return both optimisers over the parameters of `modules`: matrices of blocks to Muon."""
    named = [(n, p) for m in modules for n, p in m.named_parameters() if p.requires_grad]
    matrices = [p for n, p in named if p.ndim == 2 and is_block_matrix(n)]
    chosen = {id(p) for p in matrices}
    rest = [p for _, p in named if id(p) not in chosen]
    return Muon(matrices, muon_lr), torch.optim.AdamW(rest, adam_lr, betas=(0.9, 0.98), weight_decay=0.0)


def is_block_matrix(name: str) -> bool:
    """Say whether the parameter belongs to a block (not to embeddings, heads or the output)."""
    return "layers." in name or "mlp1." in name


def set_learning_rates(build_optimisers: Optimisers, peak_rates: tuple[float, float], factor: float) -> None:
    """Set both rates to their peak times `factor`."""
    for optimiser, rate in zip(build_optimisers, peak_rates, strict=True):
        for group in optimiser.param_groups:
            group["lr"] = rate * factor


class WeightAverage:
    """An exponential average of a module's weights; it follows quickly at first."""

    def __init__(self, module: nn.Module, decay: float = 0.998) -> None:
        self.decay, self.updates = decay, 0
        self.weights = {k: v.detach().clone() for k, v in module.state_dict().items()}

    @torch.no_grad()
    def update(self, module: nn.Module) -> None:
        """Move towards the weights of `module`."""
        self.updates += 1
        weight = 1 - min(self.decay, (1 + self.updates) / (10 + self.updates))
        for k, v in module.state_dict().items():
            self.weights[k].lerp_(v, weight)
