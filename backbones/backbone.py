"""What the architectures share: from images to embeddings, with a first part in half precision and the rest in float32."""

import torch
from torch import Tensor, nn

from utils.errors import UserError
from utils.precision import autocast


class Backbone(nn.Module):
    """An architecture adds ``trunk`` (in half precision if fp16) and ``embed`` (always float32, as in insightface).

    Its constructor accepts fp16, num_features, image_size and dropout by name; the settings of its line in backbones/__init__.py
    come in addition.

    fp16: see :func:`utils.precision.half_type`.  image_size: height and width in pixels, a multiple of 16, else UserError.
    """

    def __init__(self, fp16: bool | torch.dtype, num_features: int, image_size: int):
        super().__init__()
        if image_size < 16 or image_size % 16:
            raise UserError(f"image_size must be a multiple of 16 (each network halves the image four times), "
                            f"found {image_size}")
        self.fp16, self.num_features, self.image_size = fp16, num_features, image_size
        if type(self).shape_of is Backbone.shape_of:
            self.register_buffer("shape", torch.tensor([num_features, image_size], device="cpu"))     # also under "meta"

    def forward(self, images: Tensor) -> Tensor:
        """images float32 [B, 3, image_size, image_size], in any memory format -> embeddings float32 [B, num_features].

        UserError for another shape.
        """
        if images.shape[1:] != (3, self.image_size, self.image_size):
            raise UserError(f"this network needs images [B, 3, {self.image_size}, {self.image_size}], found "
                            f"{list(images.shape)}; resize them or build it with another image_size")
        with autocast(images.device, self.fp16):
            x = self.trunk(images)
        return self.embed(x.float())

    def trunk(self, images: Tensor) -> Tensor:
        """The layers that run in half precision."""
        raise NotImplementedError(f"{type(self).__name__} has no trunk")

    def embed(self, features: Tensor) -> Tensor:
        """From the trunk's result, as float32, to embeddings [B, num_features]."""
        raise NotImplementedError(f"{type(self).__name__} has no embed")

    @staticmethod
    def shape_of(state: dict[str, Tensor]) -> tuple[int, int]:
        """(num_features, image_size) of the network whose state dict ``state`` is.

        Here: from a buffer that a network without a shape_of of its own has for this purpose.  A network whose keys are given, by
        files that exist, finds the two numbers in the shapes of its tensors.  KeyError if they are not there.
        """
        num_features, image_size = state["shape"].tolist()
        return num_features, image_size
