"""Muon's update is close to an orthogonal matrix."""

import torch

from infra.demo_model.optim import orthogonalise


def test_orthogonalise_brings_all_singular_values_near_one() -> None:
    torch.manual_seed(0)
    singular = torch.linalg.svdvals(orthogonalise(torch.randn(1, 64, 64))[0])
    assert 0.6 < float(singular.quantile(0.05)) < float(singular.max()) < 1.3
