"""What a model expects of its pixels, normalisation and order of the colours, as a user gives it or as a file shows it.

Written as words separated by commas, for example ``input=raw,bgr`` or ``input=127.5/128,output=embedding``:
    input=raw           pixels from 0 to 255
    input=MEAN/STD      (pixel - MEAN) / STD, pixels from 0 to 255; each is a number, or one for each channel of the model, R:G:B
                        (or B:G:R with bgr), for example input=123.675:116.28:103.53/58.395:57.12:57.375
    rgb, bgr            order of the model's channels
    output=NAME         output of an ONNX file that is the embedding
"""

import math
import re
from dataclasses import dataclass

import torch
from torch import Tensor

from records.images import to_input
from utils.errors import UserError

WORD = re.compile(r"(input|output)=.*|[a-z]+")
EXPECTED = "expected words of input=raw, input=MEAN/STD (for example input=127.5/128), rgb or bgr, and output=NAME"


@dataclass(frozen=True)
class ModelInput:
    """Channel c of a model's input is (pixel - mean) / std of its colour, pixel from 0 to 255.

    mean, std: one number, or three in the order of the model's channels.
    """

    mean: tuple[float, ...] = (127.5,)
    std: tuple[float, ...] = (127.5,)
    bgr: bool = False

    @property
    def raw(self) -> bool:
        """Whether the model is given pixels from 0 to 255."""
        return set(self.mean) == {0.0} and set(self.std) == {1.0}

    @property
    def colours(self) -> str:
        """"rgb" or "bgr"."""
        return "bgr" if self.bgr else "rgb"

    @property
    def pixels(self) -> str:
        """The normalisation as a formula of the pixel x: "raw", "(x - 127.5) / 128", "x / 255"."""
        if self.raw:
            return "raw"
        mean, std = (":".join(f"{number:.6g}" for number in numbers) for numbers in (self.mean, self.std))
        return f"x / {std}" if set(self.mean) == {0.0} else f"(x - {mean}) / {std}"

    def __str__(self) -> str:
        return f"{'raw pixels' if self.raw else self.pixels}, {self.colours.upper()}"


RAW = ModelInput((0.0,), (1.0,))


@dataclass(frozen=True)
class InputOptions:
    """What a user said on a model; None: nothing, so it is found in the file or the default."""

    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    bgr: bool | None = None
    output: str | None = None
    scale: float = 127.5            # without input=: (pixel - 127.5) / scale for a model that does not normalise

    @classmethod
    def parse(cls, text: str, where: str, scale: float = 127.5) -> "InputOptions":
        """The options in ``text``, words separated by commas; "" has none.  where: the argument, for messages.

        UserError if a word is unknown or occurs twice.
        """
        options: dict = {}
        for word in filter(None, text.split(",")):
            key, _, value = word.partition("=")
            if key == "input" and value:
                found: dict = {"mean": RAW.mean, "std": RAW.std} if value == "raw" else parse_pixels(value, where)
            elif key == "output" and value:
                found = {"output": value}
            elif word in ("rgb", "bgr"):
                found = {"bgr": word == "bgr"}
            else:
                raise UserError(f"{where}: {EXPECTED}, separated by commas; found '{word}'")
            if found.keys() & options.keys():
                raise UserError(f"{where} gives the {'order of the colours' if 'bgr' in found else key} twice; give it once")
            options |= found
        return cls(**options, scale=scale)

    def chosen(self, found: ModelInput | None) -> ModelInput:
        """The input of a model in which ``found`` was found (None: no normalisation): what the user said comes first."""
        base = found or ModelInput((127.5,), (self.scale,))
        return ModelInput(base.mean if self.mean is None else self.mean, base.std if self.std is None else self.std,
                          base.bgr if self.bgr is None else self.bgr)


def parse_pixels(value: str, where: str) -> dict:
    """{"mean": ..., "std": ...} of MEAN/STD; UserError if it is not two numbers or two triples, or if a std is not positive."""
    try:
        mean, std = (tuple(float(number) for number in side.split(":")) for side in value.split("/"))
    except ValueError:
        mean, std = (), ()
    if not {len(mean), len(std)} <= {1, 3} or not all(map(math.isfinite, mean + std)) or min(std) <= 0:
        raise UserError(f"{where}: expected input=raw or input=MEAN/STD with one or three numbers each and STD above 0, for "
                        f"example input=127.5/128; found 'input={value}'")
    return {"mean": mean, "std": std}


def cut_options(text: str) -> tuple[str, str]:
    """(FILE, options) of FILE,WORD,...; the 0 of MXNet's PREFIX,0 is a part of the file."""
    pieces = text.split(",")
    count = len(pieces)
    while count > 1 and WORD.fullmatch(pieces[count - 1]):
        count -= 1
    return ",".join(pieces[:count]), ",".join(pieces[count:])


def network_input(images: Tensor, device: torch.device, expected: ModelInput) -> Tensor:
    """What a model is given: float32 [B, 3, S, S] in channels_last, from uint8 [B, S, S, 3] RGB."""
    images = images.flip(3) if expected.bgr else images
    if expected.mean == (127.5,) and len(expected.std) == 1:
        return to_input(images, device, pixel_scale=expected.std[0])        # as in training, to the bit
    x = images.to(device).permute(0, 3, 1, 2).float()
    if expected.raw:
        return x
    mean, std = (torch.tensor(numbers, device=device).view(-1, 1, 1) for numbers in (expected.mean, expected.std))
    return (x - mean) / std
