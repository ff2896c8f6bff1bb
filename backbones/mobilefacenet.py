"""MobileFaceNet: depthwise blocks and a global depthwise convolution at the end.

Chen et al., arXiv 1804.07573; widths and state-dict keys as in insightface's arcface_torch.
"""

from torch import Tensor, nn

from backbones.precision import autocast
from utils.errors import UserError


class ConvBlock(nn.Module):
    """Convolution, BN and, unless linear, PReLU."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 1, stride: int = 1, padding: int = 0,
                 groups: int = 1, linear: bool = False):
        super().__init__()
        layers = [nn.Conv2d(inputs, outputs, kernel, stride, padding, groups=groups, bias=False),
                  nn.BatchNorm2d(outputs)]
        self.layers = nn.Sequential(*layers, *([] if linear else [nn.PReLU(outputs)]))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class DepthWise(nn.Module):
    """1x1 to ``groups`` channels, 3x3 depthwise, 1x1 linear; residual: plus the input."""

    def __init__(self, inputs: int, outputs: int, groups: int, stride: int = 1, residual: bool = False):
        super().__init__()
        self.residual = residual
        self.layers = nn.Sequential(ConvBlock(inputs, groups),
                                    ConvBlock(groups, groups, 3, stride, 1, groups=groups),
                                    ConvBlock(groups, outputs, linear=True))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x) if self.residual else self.layers(x)


class Residual(nn.Module):
    """``blocks`` residual depthwise blocks of one width."""

    def __init__(self, width: int, blocks: int, groups: int):
        super().__init__()
        self.layers = nn.Sequential(*(DepthWise(width, width, groups, residual=True) for _ in range(blocks)))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class GDC(nn.Module):
    """One depthwise filter over the whole map [512, k, k], then a linear layer and BN."""

    def __init__(self, num_features: int, kernel: int):
        super().__init__()
        self.layers = nn.Sequential(ConvBlock(512, 512, kernel, groups=512, linear=True), nn.Flatten(),
                                    nn.Linear(512, num_features, bias=False), nn.BatchNorm1d(num_features))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class MobileFaceNet(nn.Module):
    """x float32 [B, 3, S, S] -> embedding float32 [B, num_features], not normalised.

    blocks: residual blocks of the four stages; scale: widths are 64 and 128 times it.  S: a multiple of 16.
    """

    def __init__(self, blocks: tuple[int, ...] = (1, 4, 6, 2), scale: int = 2, *, num_features: int = 512,
                 image_size: int = 112, dropout: float = 0.0, fp16=False):
        super().__init__()
        if image_size < 16 or image_size % 16:
            raise UserError(f"config.image_size must be a multiple of 16, found {image_size}")
        if dropout:
            raise UserError("MobileFaceNet has no dropout: set config.dropout = 0")
        self.fp16, self.image_size = fp16, image_size
        narrow, wide = 64 * scale, 128 * scale
        second = (ConvBlock(narrow, narrow, 3, 1, 1, groups=64) if blocks[0] == 1
                  else Residual(narrow, blocks[0], 128))
        self.layers = nn.ModuleList([
            ConvBlock(3, narrow, 3, 2, 1), second,
            DepthWise(narrow, narrow, 128, stride=2), Residual(narrow, blocks[1], 128),
            DepthWise(narrow, wide, 256, stride=2), Residual(wide, blocks[2], 256),
            DepthWise(wide, wide, 512, stride=2), Residual(wide, blocks[3], 256)])
        self.conv_sep = ConvBlock(wide, 512)
        self.features = GDC(num_features, image_size // 16)
        for module in self.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        with autocast(x.device, self.fp16):
            for layer in self.layers:
                x = layer(x)
        return self.features(self.conv_sep(x.float()))


def shape_of(state: dict[str, Tensor]) -> tuple[int, int]:
    """(num_features, image_size) of a state dict."""
    return len(state["features.layers.2.weight"]), 16 * state["features.layers.0.layers.0.weight"].shape[-1]
