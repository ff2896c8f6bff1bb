"""MobileFaceNet (arXiv 1804.07573) in insightface's two sizes, with its state-dict keys."""

import torch
from torch import Tensor, nn

from backbones.backbone import Backbone


class Layers(nn.Module):
    """A Sequential with the name ``layers`` that insightface's keys have at every level."""

    def __init__(self, *layers: nn.Module):
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class Residual(Layers):
    """Layers plus a shortcut around them."""

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x)


def linear_block(inputs: int, outputs: int, kernel: int = 1, stride: int = 1, padding: int = 0,
                 groups: int = 1) -> Layers:
    return Layers(nn.Conv2d(inputs, outputs, kernel, stride, padding, groups=groups, bias=False),
                  nn.BatchNorm2d(outputs))


def conv_block(inputs: int, outputs: int, kernel: int = 1, stride: int = 1, padding: int = 0,
               groups: int = 1) -> Layers:
    return Layers(*linear_block(inputs, outputs, kernel, stride, padding, groups).layers, nn.PReLU(outputs))


def bottleneck(inputs: int, outputs: int, width: int, stride: int, kind: type[Layers] = Layers) -> Layers:
    """Widen to ``width`` channels, filter each channel separately, narrow to ``outputs``."""
    return kind(conv_block(inputs, width), conv_block(width, width, 3, stride, 1, groups=width),
                linear_block(width, outputs))


def residuals(channels: int, depth: int, width: int) -> Layers:
    return Layers(*(bottleneck(channels, channels, width, 1, Residual) for _ in range(depth)))


class MobileFaceNet(Backbone):
    """depths: blocks in each of the four stages.  scale: factor on the paper's channels.

    dropout: probability, on the features before the linear layer.
    """

    def __init__(self, depths: tuple[int, int, int, int], scale: int, *, fp16: bool | torch.dtype = False,
                 num_features: int = 512, image_size: int = 112, dropout: float = 0.0):
        super().__init__(fp16, num_features, image_size)
        narrow, wide = 64 * scale, 128 * scale
        # The small network has one layer here instead of a stage, with two channels in each group.
        first = conv_block(narrow, narrow, 3, 1, 1, groups=64) if depths[0] == 1 else residuals(narrow, depths[0], 128)
        self.layers = nn.Sequential(
            conv_block(3, narrow, 3, 2, 1),
            first,
            bottleneck(narrow, narrow, 128, 2),
            residuals(narrow, depths[1], 128),
            bottleneck(narrow, wide, 256, 2),
            residuals(wide, depths[2], 256),
            bottleneck(wide, wide, 512, 2),
            residuals(wide, depths[3], 256),
        )
        self.conv_sep = conv_block(wide, 512)
        # The global depthwise convolution: one weight for each position of the last feature map.
        self.features = Layers(
            linear_block(512, 512, image_size // 16, groups=512),
            nn.Sequential(nn.Flatten(), nn.Dropout(dropout)),
            nn.Linear(512, num_features, bias=False),
            nn.BatchNorm1d(num_features),
        )
        for module in self.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def trunk(self, images: Tensor) -> Tensor:
        return self.layers(images)

    def embed(self, x: Tensor) -> Tensor:
        return self.features(self.conv_sep(x))

    @staticmethod
    def shape_of(state: dict[str, Tensor]) -> tuple[int, int]:
        return len(state["features.layers.2.weight"]), 16 * state["features.layers.0.layers.0.weight"].shape[-1]
