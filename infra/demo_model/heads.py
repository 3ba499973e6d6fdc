"""Dense heads: they read from patches and tokens what stands there, teach the tower, and are dropped afterwards."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - as everyone writes it

from infra.demo_model.class_names import MAX_DIGITS
from infra.demo_model.dense_targets import PATCH_ATTRIBUTES, TOKEN_ATTRIBUTES
from infra.demo_model.model import ModelConfig

BACKGROUND_WEIGHT = 0.1  # weight of a place where there is nothing to see
REDUCED_LOSS_WEIGHTS = {
    "top": 0.3,
    "bottom": 0.3,
}  # never learnt as far as tried; the decoder reads them off the order of tokens


class DenseHeads(nn.Module):
    """One linear map for patches, one for tokens; classes of all attributes side by side."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.patch_sizes = [n + 1 for n in PATCH_ATTRIBUTES.values()]
        self.token_sizes = [11] * MAX_DIGITS + [n + 1 for n in TOKEN_ATTRIBUTES.values()]
        self.patch = nn.Linear(config.vision_width, sum(self.patch_sizes))
        self.token = nn.Linear(config.width, sum(self.token_sizes))
        for layer in (self.patch, self.token):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, patches: Tensor, tokens: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Return logits by attribute for patches and for tokens."""
        return (
            list(self.patch(F.layer_norm(patches, patches.shape[-1:])).split(self.patch_sizes, -1)),
            list(self.token(F.layer_norm(tokens, tokens.shape[-1:])).split(self.token_sizes, -1)),
        )


TOKEN_WEIGHTS = [1.0] * MAX_DIGITS + [REDUCED_LOSS_WEIGHTS.get(name, 1.0) for name in TOKEN_ATTRIBUTES]
PATCH_WEIGHTS = [1.0] * len(PATCH_ATTRIBUTES)


def dense_loss(
    logits: list[Tensor], targets: Tensor, weights: list[float]
) -> tuple[Tensor, dict[int, tuple[int, int]]]:
    """Return the summed loss of all attributes that occur, and by attribute (right, seen) where something is.

    truth: (batch, places, attributes); weights: one for each attribute
    """
    loss, right = torch.zeros(()), {}
    for i, attribute_logits in enumerate(logits):
        classes = targets[..., i].flatten()
        present = classes > 0
        scores = attribute_logits.flatten(0, -2).float()
        seen = int(present.sum())
        if not seen:
            some_weight = torch.full_like(classes, 0.01, dtype=torch.float32)
        else:
            some_weight = torch.where(present, 1.0, BACKGROUND_WEIGHT)
        losses = F.cross_entropy(scores, classes, reduction="none")
        loss = loss + weights[i] * (losses * some_weight).sum() / (some_weight.sum() if seen else len(classes))
        if seen:
            right[i] = (int((scores.argmax(-1)[present] == classes[present]).sum()), seen)
    return loss, right
