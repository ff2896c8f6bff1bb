"""The improved ResNet of ArcFace: pre-activation blocks, PReLU, no pooling before the last linear layer.

Duta et al., arXiv 2004.04989; state-dict keys as in insightface's arcface_torch.
"""

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint_sequential

from backbones.precision import autocast
from utils.errors import UserError

EPS = 1e-5


def conv3x3(inputs: int, outputs: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)


class Block(nn.Module):
    """BN - conv - BN - PReLU - conv (with the stride) - BN, plus the input."""

    def __init__(self, inputs: int, planes: int, stride: int):
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs, eps=EPS)
        self.conv1 = conv3x3(inputs, planes)
        self.bn2 = nn.BatchNorm2d(planes, eps=EPS)
        self.prelu = nn.PReLU(planes)
        self.conv2 = conv3x3(planes, planes, stride)
        self.bn3 = nn.BatchNorm2d(planes, eps=EPS)
        self.downsample = None
        if stride != 1 or inputs != planes:
            self.downsample = nn.Sequential(nn.Conv2d(inputs, planes, 1, stride, bias=False),
                                            nn.BatchNorm2d(planes, eps=EPS))

    def forward(self, x: Tensor) -> Tensor:
        out = self.prelu(self.bn2(self.conv1(self.bn1(x))))
        out = self.bn3(self.conv2(out))
        return out + (x if self.downsample is None else self.downsample(x))


class IResNet(nn.Module):
    """x float32 [B, 3, S, S] -> embedding float32 [B, num_features], not normalised.

    layers: blocks in each of the four stages.  checkpointing: recompute the activations of every 32 blocks in
    backward instead of keeping them (r2060 does not fit otherwise).  image_size S: pixels, a multiple of 16 (112 in the papers).
    fp16: autocast of the convolutions; the last linear layer and its BatchNorm stay in float32.
    """

    def __init__(self, layers: tuple[int, ...], checkpointing: bool = False, *, num_features: int = 512, image_size: int = 112,
                 dropout: float = 0.0, fp16: bool | torch.dtype = False):
        super().__init__()
        if image_size < 16 or image_size % 16:
            raise UserError(f"config.image_size must be a multiple of 16, found {image_size}")
        self.fp16, self.image_size, self.checkpointing = fp16, image_size, checkpointing
        self.conv1 = conv3x3(3, 64)
        self.bn1 = nn.BatchNorm2d(64, eps=EPS)
        self.prelu = nn.PReLU(64)
        widths = (64, 64, 128, 256, 512)
        for stage, blocks in enumerate(layers):
            first = Block(widths[stage], widths[stage + 1], 2)
            rest = [Block(widths[stage + 1], widths[stage + 1], 1) for _ in range(blocks - 1)]
            self.add_module(f"layer{stage + 1}", nn.Sequential(first, *rest))
        self.bn2 = nn.BatchNorm2d(512, eps=EPS)
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(512 * (image_size // 16) ** 2, num_features)
        self.features = nn.BatchNorm1d(num_features, eps=EPS)
        self.features.weight.requires_grad_(False)      # the head normalises: a scale per dimension stays 1
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, 0, 0.1)

    def through(self, stage: nn.Sequential, x: Tensor) -> Tensor:
        if not (self.checkpointing and self.training and len(stage) > 32):
            return stage(x)
        return checkpoint_sequential(stage, len(stage) // 32, x, use_reentrant=False)

    def forward(self, x: Tensor) -> Tensor:
        with autocast(x.device, self.fp16):
            x = self.prelu(self.bn1(self.conv1(x)))
            for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
                x = self.through(stage, x)
            x = self.dropout(torch.flatten(self.bn2(x), 1))
        return self.features(self.fc(x.float()))


def shape_of(state: dict[str, Tensor]) -> tuple[int, int]:
    """(num_features, image_size) of a state dict."""
    features, inputs = state["fc.weight"].shape
    return features, 16 * round((inputs / 512) ** 0.5)
