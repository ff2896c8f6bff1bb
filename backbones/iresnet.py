"""The residual networks of ArcFace (arXiv 1801.07698, section 3.1), with insightface's state-dict keys."""

import math

import torch
from torch import Tensor, nn

from backbones.backbone import Backbone

WIDTHS = (64, 128, 256, 512)


class Block(nn.Module):
    """norm - conv - norm - prelu - conv - norm, plus a shortcut; the second convolution has the stride."""

    def __init__(self, inputs: int, outputs: int, stride: int):
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.prelu = nn.PReLU(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, stride, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.downsample = nn.Identity() if stride == 1 else nn.Sequential(
            nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        out = self.prelu(self.bn2(self.conv1(self.bn1(x))))
        return self.bn3(self.conv2(out)) + self.downsample(x)


def stage(inputs: int, outputs: int, depth: int) -> nn.Sequential:
    """``depth`` blocks; the first one halves height and width."""
    return nn.Sequential(Block(inputs, outputs, 2), *(Block(outputs, outputs, 1) for _ in range(depth - 1)))


class IResNet(Backbone):
    """depths: blocks in each of the four stages.  dropout: probability, on the features before the linear layer."""

    def __init__(self, depths: tuple[int, int, int, int], *, fp16: bool | torch.dtype = False,
                 num_features: int = 512, image_size: int = 112, dropout: float = 0.0):
        super().__init__(fp16, num_features, image_size)
        self.conv1 = nn.Conv2d(3, WIDTHS[0], 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(WIDTHS[0])
        self.prelu = nn.PReLU(WIDTHS[0])
        self.layer1, self.layer2, self.layer3, self.layer4 = map(stage, (WIDTHS[0], *WIDTHS), WIDTHS, depths)
        self.bn2 = nn.BatchNorm2d(WIDTHS[-1])
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(WIDTHS[-1] * (image_size // 16) ** 2, num_features)
        self.features = nn.BatchNorm1d(num_features)
        self.features.weight.requires_grad_(False)      # a gain here would cancel in the cosine
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, std=0.1)

    def trunk(self, images: Tensor) -> Tensor:
        x = self.prelu(self.bn1(self.conv1(images)))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.dropout(torch.flatten(self.bn2(x), 1))

    def embed(self, x: Tensor) -> Tensor:
        return self.features(self.fc(x))

    @staticmethod
    def shape_of(state: dict[str, Tensor]) -> tuple[int, int]:
        num_features, inputs = state["fc.weight"].shape
        return num_features, 16 * math.isqrt(inputs // WIDTHS[-1])
