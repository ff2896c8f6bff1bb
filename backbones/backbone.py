"""What the architectures share: the way from images to embeddings, and which part of it is in half precision."""

import torch
from torch import Tensor, nn

from utils.errors import UserError
from utils.precision import autocast


class Backbone(nn.Module):
    """An architecture adds ``trunk`` (half precision when fp16) and ``embed`` (always float32, as in insightface).

    It also tells what was built from what is stored: ``shape_of(state) -> (num_features, image_size)``.

    fp16: see :func:`backbones.precision.autocast`.  image_size: height and width in pixels, a multiple of 16.
    """

    def __init__(self, fp16: bool | torch.dtype, num_features: int, image_size: int):
        super().__init__()
        if image_size < 16 or image_size % 16:
            raise UserError(f"image_size must be a multiple of 16 (each network halves the image four times), "
                            f"found {image_size}")
        self.fp16, self.num_features, self.image_size = fp16, num_features, image_size

    def forward(self, images: Tensor) -> Tensor:
        """[B, 3, image_size, image_size] float32, in either memory format -> [B, num_features] float32."""
        if images.shape[1:] != (3, self.image_size, self.image_size):
            raise UserError(f"this network takes images [B, 3, {self.image_size}, {self.image_size}], found "
                            f"{list(images.shape)}; resize them or build it with another image_size")
        with autocast(images.device, self.fp16):
            x = self.trunk(images)
        return self.embed(x.float())
