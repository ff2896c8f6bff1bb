"""The networks by name: one file per architecture, insightface's state-dict keys, one forward each."""

import difflib
from functools import partial

from torch import nn

from backbones import iresnet, mobilefacenet, vit
from utils.errors import UserError

BUILDERS = {
    "r18": partial(iresnet.IResNet, (2, 2, 2, 2)),
    "r34": partial(iresnet.IResNet, (3, 4, 6, 3)),
    "r50": partial(iresnet.IResNet, (3, 4, 14, 3)),
    "r100": partial(iresnet.IResNet, (3, 13, 30, 3)),
    "r200": partial(iresnet.IResNet, (6, 26, 60, 6)),
    "r2060": partial(iresnet.IResNet, (3, 128, 896, 3), checkpointing=True),
    "mbf": partial(mobilefacenet.MobileFaceNet, (1, 4, 6, 2), 2),
    "mbf_large": partial(mobilefacenet.MobileFaceNet, (2, 8, 12, 4), 4),
    # width, depth, drop path, masked share of the patches, recompute in backward
    "vit_t": partial(vit.VisionTransformer, 256, 12, 0.1, 0.1),
    "vit_t_dp005_mask0": partial(vit.VisionTransformer, 256, 12, 0.05, 0.0),
    "vit_s": partial(vit.VisionTransformer, 512, 12, 0.1, 0.1),
    "vit_s_dp005_mask_0": partial(vit.VisionTransformer, 512, 12, 0.05, 0.0),
    "vit_b": partial(vit.VisionTransformer, 512, 24, 0.1, 0.1, True),
    "vit_b_dp005_mask_005": partial(vit.VisionTransformer, 512, 24, 0.05, 0.05, True),
    "vit_l_dp005_mask_005": partial(vit.VisionTransformer, 768, 24, 0.05, 0.05, True),
}
NETWORKS = list(BUILDERS)
FILES = {"r": iresnet, "m": mobilefacenet, "v": vit}      # first letter of a name -> its architecture


def get_model(name: str, *, num_features: int = 512, image_size: int = 112, dropout: float = 0.0,
              fp16=False) -> nn.Module:
    """Network ``name`` of NETWORKS: float32 [B, 3, S, S] -> embedding float32 [B, num_features], not normalised.

    fp16: autocast inside forward, float16 on CUDA, bfloat16 on CPUs that have it (backbones/precision.py).
    """
    if name not in BUILDERS:
        near = difflib.get_close_matches(name, NETWORKS, n=1, cutoff=0)[0]
        raise UserError(f"unknown network {name}; did you mean {near}? The networks are {' '.join(NETWORKS)}")
    return BUILDERS[name](num_features=num_features, image_size=image_size, dropout=dropout, fp16=fp16)


def shape_of(name: str, state: dict) -> tuple[int, int]:
    """(num_features, image_size) that a state dict of network ``name`` was trained with; KeyError if it is another's."""
    return FILES[name[0]].shape_of(state)
