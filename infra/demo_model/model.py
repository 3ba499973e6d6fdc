"""The model in training: the arithmetic and parameter names of InternVL-Chat (arXiv:2404.16821), nothing more.

tiles (tiles, 3, 448, 448) -> vision_model -> pixel shuffle -> mlp1 -> image tokens (tiles, 196, width)
image tokens in place of <IMG_CONTEXT> -> language_model -> logits
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - as everyone writes it


@dataclass(frozen=True)
class ModelConfig:
    """Widths and depths, as in config.json. The field names are stored in the metadata of model.safetensors."""

    patch: int = 16  #: side in pixels
    grid: int = 28  #: patches along the side of a tile
    vision_width: int = 256
    vision_inner: int = 768
    vision_layers: int = 6
    vision_heads: int = 4
    width: int = 192
    inner: int = 512
    layers: int = 4
    heads: int = 6
    kv_heads: int = 2
    rope_theta: float = 1000000.0  #: base of the rotary frequencies; no NTK or linear scaling

    @property
    def tokens_per_tile(self) -> int:
        """Image tokens of one tile."""
        return (self.grid // 2) ** 2


def dot_product_attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return scaled dot-product attention of (..., heads, positions, dim); k and v may have one head for all of q's.

    bias: added to the scores, (..., 1, positions, positions). In bfloat16 on a CPU two batched products take a quarter
    of the fused kernel's time; in float32 they take half as long again.
    """
    if q.dtype == torch.float32 and (bias is None or bias.dtype == torch.float32):
        return fused_attention(q, k, v, bias)
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
    output: Tensor = (scores if bias is None else scores + bias).softmax(-1).to(v.dtype) @ v
    return output


def fused_attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
    """Return the same from torch's fused kernel, which takes four dimensions."""
    q4, k4, v4 = (t.expand(*q.shape[:-2], *t.shape[-2:]).flatten(1, -3) for t in (q, k, v))
    mask = None if bias is None else bias.flatten(1, -3)
    return F.scaled_dot_product_attention(q4, k4, v4, attn_mask=mask).view(q.shape)


class QkNorm(nn.Module):
    """RMS norm over all heads together, as in InternViT-6B."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return x * (torch.rsqrt(x.float().square().mean(-1, keepdim=True) + 1e-6)).to(x.dtype) * self.weight.to(x.dtype)


class VisionAttention(nn.Module):
    """Self-attention with q/k norm (InternAttention with `qk_normalization`)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        width, self.heads = config.vision_width, config.vision_heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.q_norm, self.k_norm = QkNorm(width), QkNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        b, n, c = x.shape
        q, k, v = self.qkv(x).split(c, -1)
        q, k, v = (t.view(b, n, self.heads, -1).transpose(1, 2) for t in (self.q_norm(q), self.k_norm(k), v))
        return self.proj(dot_product_attention(q, k, v).transpose(1, 2).reshape(b, n, c))  # type: ignore[no-any-return]


class VisionMlp(nn.Module):
    """fc1, GELU without approximation, fc2."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.fc1 = nn.Linear(config.vision_width, config.vision_inner)
        self.fc2 = nn.Linear(config.vision_inner, config.vision_width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))  # type: ignore[no-any-return]


class VisionLayer(nn.Module):
    """One InternViT block: pre-norm, LayerScale (Touvron et al. 2021, arXiv:2103.17239)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        width = config.vision_width
        self.attn, self.mlp = VisionAttention(config), VisionMlp(config)
        self.norm1, self.norm2 = nn.LayerNorm(width, eps=1e-6), nn.LayerNorm(width, eps=1e-6)
        self.ls1, self.ls2 = nn.Parameter(torch.ones(width)), nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x)) * self.ls1
        return x + self.mlp(self.norm2(x)) * self.ls2  # type: ignore[no-any-return]


class VisionEmbeddings(nn.Module):
    """Patch embeddings, the class token and position embeddings.

    An image smaller than a tile takes the position embeddings from its `origins` (batch, 2): row and column in patches.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.grid, self.patch = config.grid, config.patch
        self.class_embedding = nn.Parameter(torch.zeros(1, 1, config.vision_width))
        self.position_embedding = nn.Parameter(torch.zeros(1, config.grid**2 + 1, config.vision_width))
        self.patch_embedding = nn.Conv2d(3, config.vision_width, config.patch, config.patch)

    def forward(self, pixels: Tensor, origins: Tensor | None) -> Tensor:
        x = self.patch_embedding(pixels)
        b, c, rows, columns = x.shape
        table = self.position_embedding[0, 1:].view(self.grid, self.grid, c)
        if origins is None:
            position_embeddings = table[:rows, :columns].reshape(1, -1, c)
        else:
            ys = origins[:, 0, None] + torch.arange(rows)
            xs = origins[:, 1, None] + torch.arange(columns)
            position_embeddings = table[ys[:, :, None], xs[:, None, :]].reshape(b, -1, c)
        first = (self.class_embedding + self.position_embedding[:, :1]).expand(b, -1, -1)
        return torch.cat([first.to(x.dtype), x.flatten(2).transpose(1, 2) + position_embeddings], 1)


class VisionEncoder(nn.Module):
    """The vision blocks."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(VisionLayer(config) for _ in range(config.vision_layers))

    def blocks(self) -> list[VisionLayer]:
        """Return the blocks with their type."""
        return [layer for layer in self.layers if isinstance(layer, VisionLayer)]


class VisionModel(nn.Module):
    """InternViT; `kept_tokens` (batch, kept) drops the patches of all other tokens before the first block."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.embeddings, self.encoder = VisionEmbeddings(config), VisionEncoder(config)

    def forward(self, pixels: Tensor, origins: Tensor | None = None, kept_tokens: Tensor | None = None) -> Tensor:
        x: Tensor = self.embeddings(pixels, origins)
        if kept_tokens is not None:
            rows, columns = (side // self.embeddings.patch for side in pixels.shape[2:])
            grouped = pixel_shuffle(x[:, 1:], rows, columns)
            selected = grouped.gather(1, kept_tokens[:, :, None].expand(-1, -1, grouped.shape[-1]))
            x = torch.cat([x[:, :1], selected.view(len(x), -1, x.shape[-1])], 1)
        for layer in self.encoder.layers:
            x = layer(x)
        return x


def pixel_shuffle(x: Tensor, rows: int, columns: int) -> Tensor:
    """Join 2x2 patches: (batch, rows*columns, c) -> (batch, rows*columns/4, 4c), in the order of `ps_version` v2."""
    b, _, c = x.shape
    x = x.view(b, rows // 2, 2, columns // 2, 2, c).permute(0, 1, 3, 2, 4, 5)
    return x.reshape(b, rows * columns // 4, 4 * c)


SUPERVISED_LAYER = 2  # whose first head is supervised


@dataclass
class AttentionSupervision:
    """Attention targets of one head, and after the forward pass its attention on them."""

    query_mask: Tensor  #: (batch, n), true at the tokens of answers
    targets: Tensor  #: (answer tokens, n), true where they should attend
    log_mass: Tensor | None = None  #: log of the attention on the targets, of each answer token that has any


class Attention(nn.Module):
    """Grouped-query attention of InternLM2: wqkv holds (queries, key, value) of each key-value head in turn."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.kv_heads, self.dim = config.kv_heads, config.width // config.heads
        self.group = config.heads // config.kv_heads
        self.wqkv = nn.Linear(config.width, (config.heads + 2 * config.kv_heads) * self.dim, bias=False)
        self.wo = nn.Linear(config.width, config.width, bias=False)

    def forward(self, x: Tensor, rope: tuple[Tensor, Tensor], bias: Tensor) -> Tensor:
        b, n, c = x.shape
        packed = self.wqkv(x).view(b, n, self.kv_heads, self.group + 2, self.dim).permute(0, 2, 3, 1, 4)
        q, k, v = packed[:, :, :-2], packed[:, :, -2:-1], packed[:, :, -1:]
        output = dot_product_attention(
            apply_rope(q, rope), apply_rope(k, rope), v, bias
        )  # (b, kv heads, group, n, dim)
        return self.wo(output.permute(0, 3, 1, 2, 4).reshape(b, n, c))  # type: ignore[no-any-return]

    def supervised_log_mass(
        self, x: Tensor, rope: tuple[Tensor, Tensor], bias: Tensor, supervision: AttentionSupervision
    ) -> Tensor:
        """Return the log of the first head's attention mass on its targets, (answer tokens with targets,)."""
        b, n, _ = x.shape
        packed = self.wqkv(x).view(b, n, self.kv_heads, self.group + 2, self.dim)
        head_rope = rope[0][:, 0, 0], rope[1][:, 0, 0]
        q, k = (apply_rope(packed[:, :, 0, place], head_rope) for place in (0, -2))
        scores = ((q * self.dim**-0.5) @ k.transpose(-1, -2) + bias[:, 0, 0])[supervision.query_mask].float()
        has_target = supervision.targets.any(-1)
        scores, is_target = scores[has_target], supervision.targets[has_target]
        log_mass: Tensor = scores.masked_fill(~is_target, -1e9).logsumexp(-1) - scores.logsumexp(-1)
        return log_mass


def apply_rope(x: Tensor, rope: tuple[Tensor, Tensor]) -> Tensor:
    """Apply rotary position embedding (Su et al. 2021, arXiv:2104.09864), in Llama's layout of halves."""
    cos, sin = rope
    first, second = x.chunk(2, -1)
    rotated: Tensor = (x * cos + torch.cat([-second, first], -1) * sin).to(x.dtype)
    return rotated


class FeedForward(nn.Module):
    """SwiGLU (Shazeer 2020, arXiv:2002.05202): w1 is the gate, w3 the up and w2 the down projection."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.w1 = nn.Linear(config.width, config.inner, bias=False)
        self.w3 = nn.Linear(config.width, config.inner, bias=False)
        self.w2 = nn.Linear(config.inner, config.width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.w2(F.silu(self.w1(x)) * self.w3(x))  # type: ignore[no-any-return]


class DecoderLayer(nn.Module):
    """One InternLM2 block."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.attention, self.feed_forward = Attention(config), FeedForward(config)
        self.attention_norm = nn.RMSNorm(config.width, eps=1e-5)
        self.ffn_norm = nn.RMSNorm(config.width, eps=1e-5)

    def forward(self, x: Tensor, rope: tuple[Tensor, Tensor], bias: Tensor) -> Tensor:
        x = x + self.attention(self.attention_norm(x), rope, bias)
        return x + self.feed_forward(self.ffn_norm(x))  # type: ignore[no-any-return]


class DecoderStack(nn.Module):
    """Token embeddings, blocks and final norm (InternLM2Model)."""

    def __init__(self, config: ModelConfig, vocabulary_size: int) -> None:
        super().__init__()
        self.tok_embeddings = nn.Embedding(vocabulary_size, config.width)
        self.layers = nn.ModuleList(DecoderLayer(config) for _ in range(config.layers))
        self.norm = nn.RMSNorm(config.width, eps=1e-5)

    def blocks(self) -> list[DecoderLayer]:
        """Return the blocks with their type."""
        return [layer for layer in self.layers if isinstance(layer, DecoderLayer)]


class LanguageModel(nn.Module):
    """InternLM2 (arXiv:2403.17297) with its output layer (InternLM2ForCausalLM)."""

    def __init__(self, config: ModelConfig, vocabulary_size: int) -> None:
        super().__init__()
        self.model = DecoderStack(config, vocabulary_size)
        self.output = nn.Linear(config.width, vocabulary_size, bias=False)
        self.dim, self.theta = config.width // config.heads, config.rope_theta

    def forward(
        self, x: Tensor, positions: Tensor, attention_mask: Tensor, supervision: AttentionSupervision | None = None
    ) -> Tensor:
        """Return the final hidden states (batch, n, width) of embeddings `x` (batch, n, width).

        positions: (batch, n); attention_mask: (batch, n, n), true where the second position may attend to the third
        supervision: receives the attention mass of the supervised head
        """
        inverse_frequencies = self.theta ** (-torch.arange(0, self.dim, 2).float() / self.dim)
        angles = (positions.float()[:, :, None] * inverse_frequencies).repeat(1, 1, 2)[:, None, None]
        rope = angles.cos().to(torch.bfloat16), angles.sin().to(torch.bfloat16)
        if not torch.is_autocast_enabled("cpu"):
            rope = angles.cos(), angles.sin()
        bias = torch.zeros(attention_mask.shape, dtype=rope[0].dtype).masked_fill(~attention_mask, -1e4)[:, None, None]
        for number, layer in enumerate(self.model.blocks()):
            if supervision is not None and number == SUPERVISED_LAYER:
                supervision.log_mass = layer.attention.supervised_log_mass(
                    layer.attention_norm(x), rope, bias, supervision
                )
            x = layer(x, rope, bias)
        return self.model.norm(x)  # type: ignore[no-any-return]


class ChatModel(nn.Module):
    """Vision tower, projector (mlp1) and language model (InternVLChatModel)."""

    def __init__(self, config: ModelConfig, vocabulary_size: int) -> None:
        super().__init__()
        self.config = config
        self.vision_model = VisionModel(config)
        joined = 4 * config.vision_width
        self.mlp1 = nn.Sequential(
            nn.LayerNorm(joined), nn.Linear(joined, config.width), nn.GELU(), nn.Linear(config.width, config.width)
        )
        self.language_model = LanguageModel(config, vocabulary_size)

    def encode_images(
        self, pixels: Tensor, origins: Tensor | None = None, kept_tokens: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return patch features (batch, patches, vision width) and token features (batch, patches/4, width).

        pixels: (batch, 3, height, width), normalised; origins: (batch, 2), see `VisionEmbeddings`
        kept_tokens: (batch, kept), the only tokens that are computed; patches come in the order of their tokens
        """
        rows, columns = (side // self.config.patch for side in pixels.shape[2:])
        patches = self.vision_model(pixels, origins, kept_tokens)[:, 1:]
        if kept_tokens is not None:
            return patches, self.mlp1(patches.reshape(len(patches), kept_tokens.shape[1], -1))
        return patches, self.mlp1(pixel_shuffle(patches, rows, columns))


IMAGENET_MEAN, IMAGENET_STD = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])


def normalise(images: Tensor) -> Tensor:
    """Return uint8 images (batch, height, width, 3) as normalised pixels (batch, 3, height, width), float32."""
    return ((images.float() / 255 - IMAGENET_MEAN) / IMAGENET_STD).permute(0, 3, 1, 2).contiguous()
