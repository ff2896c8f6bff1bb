"""A network of three convolutions, for rehearsals and tests: it learns a few thousand images of 32x32 pixels in seconds."""

import math

import torch
from torch import Tensor, nn

from backbones.backbone import Backbone


class SmallCnn(Backbone):
    """Three convolutions, each with a norm and a PReLU, and each halves the image; then one linear layer.

    widths: channels of the convolutions.  dropout: probability, on the features before the linear layer.
    """

    def __init__(self, widths: tuple[int, int, int], *, fp16: bool | torch.dtype = False, num_features: int = 512,
                 image_size: int = 112, dropout: float = 0.0):
        super().__init__(fp16, num_features, image_size)
        layers: list[nn.Module] = []
        for inputs, outputs in zip((3, *widths), widths, strict=False):
            layers += [nn.Conv2d(inputs, outputs, 3, 2, 1, bias=False), nn.BatchNorm2d(outputs), nn.PReLU(outputs)]
        self.layers = nn.Sequential(*layers)
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(widths[-1] * (image_size // 8) ** 2, num_features, bias=False)
        self.features = nn.BatchNorm1d(num_features)

    def trunk(self, images: Tensor) -> Tensor:
        return self.dropout(torch.flatten(self.layers(images), 1))

    def embed(self, x: Tensor) -> Tensor:
        return self.features(self.fc(x))

    @staticmethod
    def shape_of(state: dict[str, Tensor]) -> tuple[int, int]:
        num_features, inputs = state["fc.weight"].shape
        return num_features, 8 * math.isqrt(inputs // len(state["layers.6.weight"]))
