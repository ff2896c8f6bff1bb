"""Vision transformer (arXiv 2010.11929) as insightface trains it on faces, with its state-dict keys.

It has no class token: all tokens together go through two linear layers.  In training some tokens are left out (as in MAE,
arXiv 2111.06377); one learned token takes their places before those layers.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from backbones.backbone import Backbone

PATCH = 9       # pixels of a side of a patch


class Attention(nn.Module):
    def __init__(self, dim: int, heads: int):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """x [B, L, D] -> [B, L, D]: softmax(q k^T / sqrt(D / heads)) v in each head."""
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class Mlp(nn.Module):
    def __init__(self, dim: int, hidden: int):
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.relu6(self.fc1(x)))


class Block(nn.Module):
    """Attention and MLP; the input of each is the normalised tokens, its output is added to the tokens."""

    def __init__(self, dim: int, heads: int, drop_path: float):
        super().__init__()
        self.drop_path = drop_path
        self.norm1 = nn.LayerNorm(dim)
        self.norm2 = nn.LayerNorm(dim)
        self.attn = Attention(dim, heads)
        self.mlp = Mlp(dim, 4 * dim)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.kept(self.attn(self.norm1(x)))
        return x + self.kept(self.mlp(self.norm2(x)))

    def kept(self, branch: Tensor) -> Tensor:
        """Stochastic depth: in training the branch of an image is 0 with probability drop_path, else divided by 1 - drop_path."""
        return branch * F.dropout(branch.new_ones(len(branch), 1, 1), self.drop_path, self.training)


class PatchEmbed(nn.Module):
    """images [B, 3, H, W] -> tokens [B, patches, D], row by row."""

    def __init__(self, dim: int):
        super().__init__()
        self.proj = nn.Conv2d(3, dim, PATCH, PATCH)

    def forward(self, images: Tensor) -> Tensor:
        return self.proj(images).flatten(2).transpose(1, 2)


class VisionTransformer(Backbone):
    """dim: numbers in a token.  depth: blocks.  mask_ratio: share of the tokens that are left out in training.

    drop_path: probability in the last block, rising linearly from 0 in the first.  dropout: probability, on the tokens before
    the linear layers.  recompute: store one activation per block and compute the others again in the backward pass.
    The patches start at the upper left corner, as in insightface.  Up to 8 pixels at the right and the lower edge are not
    used: 4 of 112, and 5 of 32, 3 of 48, 1 of 64, 8 of 80, 6 of 96, 2 of 128.
    """

    def __init__(self, dim: int, depth: int, *, heads: int = 8, drop_path: float, mask_ratio: float,
                 recompute: bool = False, fp16: bool | torch.dtype = False, num_features: int = 512,
                 image_size: int = 112, dropout: float = 0.0):
        super().__init__(fp16, num_features, image_size)
        patches = (image_size // PATCH) ** 2
        self.recompute, self.masks = recompute, mask_ratio > 0
        self.keep = max(int(patches * (1 - mask_ratio)), 1)
        self.pos_embed = nn.Parameter(torch.empty(1, patches, dim))
        # Without masks no gradient reaches the mask token, and DDP would wait for it for ever.
        self.mask_token = nn.Parameter(torch.empty(1, 1, dim), requires_grad=self.masks)
        self.patch_embed = PatchEmbed(dim)
        self.blocks = nn.ModuleList(Block(dim, heads, drop_path * i / max(depth - 1, 1)) for i in range(depth))
        self.norm = nn.LayerNorm(dim)
        self.dropout = nn.Dropout(dropout)
        self.feature = nn.Sequential(
            nn.Linear(patches * dim, dim, bias=False), nn.BatchNorm1d(dim, eps=2e-5),
            nn.Linear(dim, num_features, bias=False), nn.BatchNorm1d(num_features, eps=2e-5))
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        nn.init.normal_(self.mask_token, std=0.02)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def trunk(self, images: Tensor) -> Tensor:
        x = self.patch_embed(images) + self.pos_embed
        if not (self.training and self.masks):
            return self.norm(self.transform(x))
        # Each image keeps its own random tokens; the mask token takes all other places.
        index = torch.rand(x.shape[:2], device=x.device).argsort(1)[:, :self.keep, None].expand(-1, -1, x.shape[2])
        out = self.norm(self.transform(x.gather(1, index)))
        return self.mask_token.to(out.dtype).expand(x.shape).scatter(1, index, out)

    def transform(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = checkpoint(block, x, use_reentrant=False) if self.recompute and self.training else block(x)
        return x

    def embed(self, x: Tensor) -> Tensor:
        return self.feature(self.dropout(x.flatten(1)))

    @staticmethod
    def shape_of(state: dict[str, Tensor]) -> tuple[int, int]:
        covered = PATCH * int(state["pos_embed"].shape[1] ** 0.5)
        return len(state["feature.2.weight"]), 16 * -(-covered // 16)
