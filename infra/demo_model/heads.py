"""Dense heads: they read from patches and tokens what stands there, teach the tower, and are dropped afterwards."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - as everyone writes it

from infra.demo_model.class_names import MAX_DIGITS
from infra.demo_model.dense_targets import PATCH_ATTRIBUTES, TOKEN_ATTRIBUTES
from infra.demo_model.model import Sizes

NOTHING = 0.1  # weight of a place where there is nothing to see
LIGHT = {"top": 0.3, "bottom": 0.3}  # never learnt as far as tried; the decoder reads them off the order of tokens


class Heads(nn.Module):
    """One linear map for patches, one for tokens; classes of all attributes side by side."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.patch_sizes = [n + 1 for n in PATCH_ATTRIBUTES.values()]
        self.token_sizes = [11] * MAX_DIGITS + [n + 1 for n in TOKEN_ATTRIBUTES.values()]
        self.patch = nn.Linear(sizes.vision_width, sum(self.patch_sizes))
        self.token = nn.Linear(sizes.width, sum(self.token_sizes))
        for layer in (self.patch, self.token):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, patches: Tensor, tokens: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Return logits by attribute for patches and for tokens."""
        return (
            list(self.patch(F.layer_norm(patches, patches.shape[-1:])).split(self.patch_sizes, -1)),
            list(self.token(F.layer_norm(tokens, tokens.shape[-1:])).split(self.token_sizes, -1)),
        )


TOKEN_WEIGHTS = [1.0] * MAX_DIGITS + [LIGHT.get(name, 1.0) for name in TOKEN_ATTRIBUTES]
PATCH_WEIGHTS = [1.0] * len(PATCH_ATTRIBUTES)


def dense_loss(logits: list[Tensor], truth: Tensor, weights: list[float]) -> tuple[Tensor, dict[int, tuple[int, int]]]:
    """Return the summed loss of all attributes that occur, and by attribute (right, seen) where something is.

    truth: (batch, places, attributes); weights: one for each attribute
    """
    loss, right = torch.zeros(()), {}
    for i, given in enumerate(logits):
        wanted = truth[..., i].flatten()
        some = wanted > 0
        scores = given.flatten(0, -2).float()
        seen = int(some.sum())
        if not seen:
            some_weight = torch.full_like(wanted, 0.01, dtype=torch.float32)
        else:
            some_weight = torch.where(some, 1.0, NOTHING)
        losses = F.cross_entropy(scores, wanted, reduction="none")
        loss = loss + weights[i] * (losses * some_weight).sum() / (some_weight.sum() if seen else len(wanted))
        if seen:
            right[i] = (int((scores.argmax(-1)[some] == wanted[some]).sum()), seen)
    return loss, right
