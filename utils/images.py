"""From uint8 images to network input, on the device that the network runs on."""

import torch
from torch import Tensor


def to_input(images: Tensor, device: torch.device | str, flip: Tensor | None = None,
             pixel_scale: float = 127.5) -> Tensor:
    """Network input [B, 3, H, W] float32 in channels_last, (x - 127.5) / pixel_scale.

    images: uint8 [B, H, W, 3], RGB.  flip: bool [B], True = mirror left to right.
    Only a quarter of the float bytes crosses to the device, and the permuted view of [B, H, W, 3]
    already *is* channels_last: nothing is copied for the layout.
    """
    x = images.to(device, non_blocking=True).permute(0, 3, 1, 2)
    x = (x.float() - 127.5) / pixel_scale
    if flip is None:
        return x
    flip = flip.to(device, non_blocking=True).view(-1, 1, 1, 1)
    return torch.where(flip, x.flip(3), x)
