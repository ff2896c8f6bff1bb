"""The vision transformer of insightface: 9x9 patches, all tokens flattened into the last linear layer.

Dosovitskiy et al., arXiv 2010.11929; random masking as in MAE (He et al., arXiv 2111.06377) while training;
state-dict keys as in insightface's arcface_torch.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from backbones.precision import autocast
from utils.errors import UserError

PATCH = 9       # pixels; a border of image_size % 9 pixels at the right and lower edge is not seen


class Mlp(nn.Module):
    def __init__(self, width: int, dropout: float):
        super().__init__()
        self.fc1, self.act, self.fc2 = nn.Linear(width, 4 * width), nn.ReLU6(), nn.Linear(4 * width, width)
        self.drop = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        return self.drop(self.fc2(self.drop(self.act(self.fc1(x)))))


class Attention(nn.Module):
    def __init__(self, width: int, heads: int, dropout: float):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.proj = nn.Linear(width, width)
        self.drop = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, width = x.shape
        q, k, v = self.qkv(x).view(batch, tokens, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        x = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(batch, tokens, width)
        return self.drop(self.proj(x))


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)); each branch left out of a sample with probability drop_path."""

    def __init__(self, width: int, heads: int, dropout: float, drop_path: float):
        super().__init__()
        self.norm1, self.attn = nn.LayerNorm(width), Attention(width, heads, dropout)
        self.norm2, self.mlp = nn.LayerNorm(width), Mlp(width, dropout)
        self.drop_path = drop_path

    def kept(self, branch: Tensor) -> Tensor:
        if not self.training or self.drop_path == 0:
            return branch
        keep = torch.rand(len(branch), 1, 1, device=branch.device) >= self.drop_path
        return branch * keep / (1 - self.drop_path)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.kept(self.attn(self.norm1(x)))
        return x + self.kept(self.mlp(self.norm2(x)))


class PatchEmbed(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.proj = nn.Conv2d(3, width, PATCH, PATCH)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(x).flatten(2).transpose(1, 2)


class VisionTransformer(nn.Module):
    """x float32 [B, 3, S, S] -> embedding float32 [B, num_features], not normalised.

    width, depth, heads: of the blocks.  drop_path: probability at the last block, rising linearly from 0.
    mask_ratio: share of the patches that a training step replaces by the mask token; none in eval mode.
    checkpointing: recompute the blocks in backward instead of keeping their activations.
    """

    def __init__(self, width: int, depth: int, drop_path: float, mask_ratio: float, checkpointing: bool = False, *,
                 heads: int = 8, num_features: int = 512, image_size: int = 112, dropout: float = 0.0, fp16=False):
        super().__init__()
        if image_size < 16 or image_size % 16:
            raise UserError(f"config.image_size must be a multiple of 16, found {image_size}")
        self.fp16, self.image_size, self.mask_ratio = fp16, image_size, mask_ratio
        self.checkpointing = checkpointing
        patches = (image_size // PATCH) ** 2
        self.pos_embed = nn.Parameter(torch.zeros(1, patches, width))
        self.mask_token = nn.Parameter(torch.zeros(1, 1, width))
        self.patch_embed = PatchEmbed(width)
        self.pos_drop = nn.Dropout(dropout)
        self.blocks = nn.ModuleList([Block(width, heads, dropout, p.item())
                                     for p in torch.linspace(0, drop_path, depth)])
        self.norm = nn.LayerNorm(width)
        self.feature = nn.Sequential(
            nn.Linear(width * patches, width, bias=False), nn.BatchNorm1d(width, eps=2e-5),
            nn.Linear(width, num_features, bias=False), nn.BatchNorm1d(num_features, eps=2e-5))
        self.mask_token.requires_grad_(mask_ratio > 0)
        nn.init.normal_(self.mask_token, std=0.02)
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def masked(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(the kept tokens [B, kept, D], where each token of the sequence is to be found after them [B, T])."""
        batch, tokens, _ = x.shape
        order = torch.rand(batch, tokens, device=x.device).argsort(1)
        kept = order[:, :int(tokens * (1 - self.mask_ratio))]
        return x.gather(1, kept[:, :, None].expand(-1, -1, x.shape[2])), order.argsort(1)

    def unmasked(self, x: Tensor, restore: Tensor) -> Tensor:
        """The whole sequence again, with the mask token where a token was left out."""
        batch, tokens = restore.shape
        gaps = self.mask_token.to(x.dtype).expand(batch, tokens - x.shape[1], -1)
        return torch.cat([x, gaps], 1).gather(1, restore[:, :, None].expand(-1, -1, x.shape[2]))

    def forward(self, x: Tensor) -> Tensor:
        masking = self.training and self.mask_ratio > 0
        with autocast(x.device, self.fp16):
            x = self.pos_drop(self.patch_embed(x) + self.pos_embed)
            if masking:
                x, restore = self.masked(x)
            for block in self.blocks:
                recompute = self.checkpointing and self.training
                x = checkpoint(block, x, use_reentrant=False) if recompute else block(x)
            x = self.norm(x.float())
        if masking:
            x = self.unmasked(x, restore)
        return self.feature(x.float().flatten(1))


def shape_of(state: dict[str, Tensor]) -> tuple[int, int]:
    """(num_features, image_size) of a state dict; patches = (image_size // 9)^2."""
    side = round(state["pos_embed"].shape[1] ** 0.5)
    return len(state["feature.2.weight"]), next(s for s in range(16, 10**6, 16) if s // PATCH == side)
