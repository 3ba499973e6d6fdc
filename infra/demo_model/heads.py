"""Dense heads: linear classifiers of patches and tokens, through which the tower is trained; not part of the model."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - as everyone writes it

from infra.demo_model.class_names import MAX_DIGITS
from infra.demo_model.dense_targets import BACKGROUND, PATCH_ATTRIBUTES, TOKEN_ATTRIBUTES
from infra.demo_model.model import ModelConfig

BACKGROUND_WEIGHT = 0.1  # of a place of class BACKGROUND in an attribute's loss
ABSENT_ATTRIBUTE_WEIGHT = 0.01  # of every place, in a batch without any value of the attribute
#: No training run learnt these two well; the decoder infers them from the order of the tokens.
REDUCED_LOSS_WEIGHTS = {"rank_top": 0.3, "rank_bottom": 0.3}
PATCH_WEIGHTS = [1.0] * len(PATCH_ATTRIBUTES)
TOKEN_WEIGHTS = [1.0] * MAX_DIGITS + [REDUCED_LOSS_WEIGHTS.get(name, 1.0) for name in TOKEN_ATTRIBUTES]


class DenseHeads(nn.Module):
    """One linear map for patches, one for tokens; the classes of all attributes are its outputs side by side."""

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
        """Return the logits (..., classes) of each attribute, for patches and for tokens.

        patches: (batch, patches, vision width); tokens: (batch, tokens, width)
        """
        return (
            list(self.patch(F.layer_norm(patches, patches.shape[-1:])).split(self.patch_sizes, -1)),
            list(self.token(F.layer_norm(tokens, tokens.shape[-1:])).split(self.token_sizes, -1)),
        )


def dense_loss(
    logits: list[Tensor], targets: Tensor, weights: list[float]
) -> tuple[Tensor, dict[int, tuple[int, int]]]:
    """Return the weighted sum of the attributes' cross-entropies, and (correct, total) of each that has values.

    logits: one (batch, places, classes) an attribute; targets: (batch, places, attributes); weights: one an attribute
    """
    loss, counts = torch.zeros(()), {}
    for i, attribute_logits in enumerate(logits):
        classes = targets[..., i].flatten()
        has_value = classes != BACKGROUND
        scores = attribute_logits.flatten(0, -2).float()
        losses = F.cross_entropy(scores, classes, reduction="none")
        total = int(has_value.sum())
        if total:
            place_weights = torch.where(has_value, 1.0, BACKGROUND_WEIGHT)
            loss = loss + weights[i] * (losses * place_weights).sum() / place_weights.sum()
            counts[i] = (int((scores.argmax(-1)[has_value] == classes[has_value]).sum()), total)
        else:
            place_weights = torch.full_like(classes, ABSENT_ATTRIBUTE_WEIGHT, dtype=torch.float32)
            loss = loss + weights[i] * (losses * place_weights).sum() / len(classes)
    return loss, counts
