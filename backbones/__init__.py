"""The networks from a face image to an embedding: those of insightface, by their names there, and a small one (cnn_s)."""

import difflib

import torch

from backbones.backbone import Backbone
from backbones.cnn_s import SmallCnn
from backbones.iresnet import IResNet
from backbones.iresnet2060 import IResNet2060
from backbones.mobilefacenet import MobileFaceNet
from backbones.vit import VisionTransformer
from utils.errors import UserError

# name -> class and the settings that make it this network.
BUILDERS: dict[str, tuple[type[Backbone], dict]] = {
    "r18": (IResNet, dict(depths=(2, 2, 2, 2))),
    "r34": (IResNet, dict(depths=(3, 4, 6, 3))),
    "r50": (IResNet, dict(depths=(3, 4, 14, 3))),
    "r100": (IResNet, dict(depths=(3, 13, 30, 3))),
    "r200": (IResNet, dict(depths=(6, 26, 60, 6))),
    "r2060": (IResNet2060, dict(depths=(3, 128, 896, 3))),
    "mbf": (MobileFaceNet, dict(depths=(1, 4, 6, 2), scale=2)),
    "mbf_large": (MobileFaceNet, dict(depths=(2, 8, 12, 4), scale=4)),
    "cnn_s": (SmallCnn, dict(widths=(32, 64, 128))),        # not insightface's: for rehearsals and tests
    "vit_t": (VisionTransformer, dict(dim=256, depth=12, drop_path=0.1, mask_ratio=0.1)),
    "vit_t_dp005_mask0": (VisionTransformer, dict(dim=256, depth=12, drop_path=0.05, mask_ratio=0.0)),
    "vit_s": (VisionTransformer, dict(dim=512, depth=12, drop_path=0.1, mask_ratio=0.1)),
    "vit_s_dp005_mask_0": (VisionTransformer, dict(dim=512, depth=12, drop_path=0.05, mask_ratio=0.0)),
    "vit_b": (VisionTransformer, dict(dim=512, depth=24, drop_path=0.1, mask_ratio=0.1, recompute=True)),
    "vit_b_dp005_mask_005": (
        VisionTransformer, dict(dim=512, depth=24, drop_path=0.05, mask_ratio=0.05, recompute=True)),
    "vit_l_dp005_mask_005": (
        VisionTransformer, dict(dim=768, depth=24, drop_path=0.05, mask_ratio=0.05, recompute=True)),
}
NETWORKS = list(BUILDERS)


def builder(name: str) -> tuple[type[Backbone], dict]:
    """Class and settings of a network; UserError with the nearest name and the list for an unknown one."""
    if name not in BUILDERS:
        near = difflib.get_close_matches(str(name), NETWORKS, n=1, cutoff=0)
        raise UserError(f"unknown network '{name}'; did you mean {near[0]}? The networks are {' '.join(NETWORKS)}")
    return BUILDERS[name]


def get_model(name: str, *, fp16: bool | torch.dtype = False, num_features: int = 512, image_size: int = 112,
              dropout: float = 0.0, **settings) -> Backbone:
    """A new network: images float32 [B, 3, image_size, image_size] -> embeddings float32 [B, num_features].

    fp16: half precision if the device supports it, or a torch.dtype; see :func:`utils.precision.half_type`.
    image_size: pixels, a multiple of 16.  dropout: probability, on the features that enter the last linear layers.
    settings: replace settings of the network, which its class lists, for example mask_ratio=0.25 for vit_t.
    It is fastest in channels_last: ``model.to(memory_format=torch.channels_last)``.
    UserError for an unknown name, an image size that is not a multiple of 16, or a network whose model.pt could not be read
    again.
    """
    kind, defaults = builder(name)
    model = kind(**{**defaults, "fp16": fp16, "num_features": num_features, "image_size": image_size, "dropout": dropout,
                    **settings})
    check_shape_of(name, model)
    return model


def check_shape_of(name: str, model: Backbone) -> None:
    """UserError unless ``shape_of`` of the network finds its size in its state dict: else model.pt could not be read again."""
    expected = model.num_features, model.image_size
    try:
        found: tuple | str = tuple(type(model).shape_of(model.state_dict()))
    except Exception as error:          # it is the user's code
        found = f"{type(error).__name__}: {error}"
    if found != expected:
        raise UserError(f"network {name}: {type(model).__name__}.shape_of must find (num_features, image_size) = {expected} in "
                        f"the network's state dict, found {found}; correct it, or remove it: the class has one by default")
