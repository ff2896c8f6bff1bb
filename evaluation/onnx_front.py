"""The first nodes of an ONNX file: which normalisation of the pixels do they hold?

The constants are followed from the input to the first node that is neither arithmetic with constants nor a change of layout:
to there, channel c is scale * pixel[source] + offset. The pixel value that becomes 0 and the one unit that becomes 1 tell what
the file expects: values of 0 to 255, of 0 to 1, or values that are normalised already. At a BatchNormalization, its mean and
standard deviation tell it.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper
from onnx.inliner import inline_local_functions
from onnx.reference import ReferenceEvaluator

from evaluation.inputs import RAW, ModelInput

SAME = {"Identity", "Cast", "Dropout", "Pad", "Clip", "Resize", "Upsample", "QuantizeLinear", "DequantizeLinear", "Reshape"}
IGNORED = {"Shape", "Size"}             # they read no pixels
MAX_CONSTANT = 1_000_000                # numbers of a constant that is computed here
LARGEST_ZERO, LARGEST_UNIT = 5.0, 10.0  # of a file for values of 0 to 1 or -1 to 1; for pixels of 0 to 255 one of both is larger
COLOUR_STEP = 2.5                       # smallest difference of the red and the blue mean, of 255, that tells the order


@dataclass(frozen=True)
class Channels:
    """A tensor before the network proper: channel c is scale[c] * pixel[source[c]] + offset[c], at dimension ``axis``."""

    source: np.ndarray      # int [C], channel of the input
    scale: np.ndarray       # float64 [C]
    offset: np.ndarray
    axis: int               # dimension of the channels, of 4

    def take(self, chosen) -> "Channels":
        """The channels ``chosen``, in that order."""
        return Channels(self.source[chosen], self.scale[chosen], self.offset[chosen], self.axis)


@dataclass(frozen=True)
class Seen:
    """What a node of the network proper reads: input channel, pixel value that is 0 there, and pixel values per unit."""

    source: np.ndarray
    zero: np.ndarray
    unit: np.ndarray
    node: str


@dataclass(frozen=True)
class Found:
    """What the first nodes show."""

    input: ModelInput | None        # None: they normalise nothing, or it is not clear
    colours: bool                   # whether the means tell the order of the colours
    words: str                      # the reason, a sentence's second half
    sure: bool


class Front:
    """Walk over the graph of ``model`` from its input named ``name``, whose channels are at dimension ``axis``."""

    def __init__(self, model: onnx.ModelProto, name: str, axis: int, folder: Path):
        model = inline_local_functions(model) if model.functions else model
        self.folder, self.opsets = str(folder), list(model.opset_import)
        self.graph, self.nodes = model.graph, {out: node for node in model.graph.node for out in node.output}
        self.weights = {tensor.name: tensor for tensor in model.graph.initializer}
        self.tracked = {name: Channels(np.arange(3), np.ones(3), np.zeros(3), axis)}
        self.seen = list(self.walk())

    def walk(self) -> Iterator[Seen]:
        """Follow every node that reads a tracked tensor; yield what the others read."""
        for node in self.graph.node:
            inputs = [self.tracked[name] for name in node.input if name in self.tracked]
            if not inputs or node.op_type in IGNORED:
                continue
            outputs = self.after(node, inputs) if node.domain in ("", "ai.onnx") else None
            if outputs is None:
                yield from (self.read_by(node, channels) for channels in inputs)
            else:
                self.tracked |= dict(zip(node.output, outputs, strict=False))

    def after(self, node, inputs: list[Channels]) -> list[Channels] | None:
        """The outputs of a node whose inputs are ``inputs`` and constants; None: it is part of the network proper."""
        x, kind, attribute = inputs[0], node.op_type, attributes(node)
        if kind == "Concat" and len(inputs) == len(node.input) and attribute["axis"] % 4 == x.axis:
            return [Channels(np.concatenate([part.source for part in inputs]), np.concatenate([part.scale for part in inputs]),
                             np.concatenate([part.offset for part in inputs]), x.axis)]
        if len(inputs) > 1 or node.input[0] not in self.tracked and kind not in ("Add", "Sub", "Mul"):
            return None
        if kind in SAME:
            return [x] if kind != "Reshape" or self.keeps_layout(node, x) else None
        if kind == "Transpose":
            return [replace(x, axis=list(attribute.get("perm", [3, 2, 1, 0])).index(x.axis))]
        if kind == "Neg":
            return [replace(x, scale=-x.scale, offset=-x.offset)]
        if kind in ("Add", "Sub", "Mul", "Div"):
            return self.arithmetic(node, x)
        if kind == "Conv":
            return self.pointwise(node, x)
        if kind in ("Gather", "Slice", "Split"):
            return self.chosen(node, x, attribute)
        return None

    def keeps_layout(self, node, x: Channels) -> bool:
        shape = self.constant(node.input[1])
        return shape is not None and len(shape) == 4 and shape[x.axis] in (0, len(x.source))

    def arithmetic(self, node, x: Channels) -> list[Channels] | None:
        first = node.input[0] in self.tracked
        value = self.per_channel(node.input[1 if first else 0], x)
        if value is None or node.op_type == "Div" and (value == 0).any():
            return None
        if node.op_type == "Add":
            return [replace(x, offset=x.offset + value)]
        if node.op_type == "Sub":
            sign = 1 if first else -1
            return [replace(x, scale=sign * x.scale, offset=sign * (x.offset - value))]
        factor = value if node.op_type == "Mul" else 1 / value
        return [replace(x, scale=x.scale * factor, offset=x.offset * factor)]

    def per_channel(self, name: str, x: Channels) -> np.ndarray | None:
        """A constant as one number per channel, float64 [C]; that of a mean picture is its mean."""
        value = self.constant(name)
        if value is None or value.ndim > 4:
            return None
        value = value.reshape((1,) * (4 - value.ndim) + value.shape).astype(np.float64)
        value = value.mean(tuple(axis for axis in range(4) if axis != x.axis))
        return np.broadcast_to(value, len(x.source)) if len(value) in (1, len(x.source)) else None

    def pointwise(self, node, x: Channels) -> list[Channels] | None:
        """A convolution of one pixel whose outputs are one channel each, times a factor; None for any other one."""
        weight = self.constant(node.input[1])
        if weight is None or x.axis != 1 or weight.ndim != 4 or weight.shape[2:] != (1, 1):
            return None
        groups, channels = attributes(node).get("group", 1), len(x.source)
        if groups == channels and weight.shape[0] == channels:
            matrix = np.diag(weight.reshape(-1))
        elif groups == 1 and weight.shape[:2] == (channels, channels):
            matrix = weight[:, :, 0, 0]
        else:
            return None
        if ((matrix != 0).sum(1) != 1).any():
            return None
        bias = self.constant(node.input[2]) if len(node.input) > 2 else np.zeros(channels)
        if bias is None:
            return None
        x, factor = x.take((matrix != 0).argmax(1)), matrix.sum(1).astype(np.float64)
        return [replace(x, scale=x.scale * factor, offset=x.offset * factor + bias)]

    def chosen(self, node, x: Channels, attribute: dict) -> list[Channels] | None:
        """Gather, Slice and Split: another order of the channels, or the same channels of fewer pixels."""
        if node.op_type == "Gather":
            index = self.constant(node.input[1])
            if index is None or index.ndim != 1:
                return None
            return [x.take(index.astype(int)) if attribute.get("axis", 0) % 4 == x.axis else x]
        if node.op_type == "Split":
            if attribute.get("axis", 0) % 4 != x.axis or len(node.output) != len(x.source):
                return None
            return [x.take([c]) for c in range(len(x.source))]
        names = ("starts", "ends", "axes", "steps")
        given = {name: self.constant(value) for name, value in zip(names, node.input[1:], strict=False)}
        numbers = {name: np.asarray(value).tolist() for name, value in (attribute | given).items() if value is not None}
        if not {"starts", "ends"} <= numbers.keys() or len(numbers) < len(given):
            return None
        count = len(numbers["starts"])
        axes, steps = numbers.get("axes", list(range(count))), numbers.get("steps", [1] * count)
        for start, end, axis, step in zip(numbers["starts"], numbers["ends"], axes, steps, strict=True):
            if axis % 4 == x.axis:
                x = x.take(np.arange(len(x.source))[slice(start, end if end > -2**31 else None, step)])
        return [x]

    def read_by(self, node, x: Channels) -> Seen:
        """What a node of the network proper reads; a BatchNormalization knows the range of what it was trained on."""
        zero, unit = np.zeros(len(x.source)), np.ones(len(x.source))
        if node.op_type == "BatchNormalization":
            mean, variance = (self.constant(name) for name in node.input[3:5])
            if mean is not None and variance is not None and len(mean) == len(variance) == len(x.source):
                zero, unit = mean.astype(np.float64), np.sqrt(variance + attributes(node).get("epsilon", 1e-5))
        with np.errstate(divide="ignore", invalid="ignore"):
            return Seen(x.source, (zero - x.offset) / x.scale, unit / np.abs(x.scale), node.op_type)

    def constant(self, name: str) -> np.ndarray | None:
        """The value of a tensor that does not depend on the input; None if it does or is large."""
        if name in self.weights:
            tensor = self.weights[name]
            return numpy_helper.to_array(tensor, self.folder) if np.prod(tensor.dims) <= MAX_CONSTANT else None
        node = self.nodes.get(name)
        if node is None:
            return None
        parts = {part: self.constant(part) for part in node.input if part}
        values = [numpy_helper.from_array(value, part) for part, value in parts.items() if value is not None]
        if len(values) < len(parts):
            return None
        graph = onnx.helper.make_graph([node], "constant", [], [onnx.ValueInfoProto(name=name)], values)
        try:
            evaluator = ReferenceEvaluator(onnx.helper.make_model(graph, opset_imports=self.opsets))
            return np.asarray(next(iter(evaluator.run([name], {}))))
        except Exception:       # an operator that it does not know: not a constant that can be followed
            return None


def attributes(node) -> dict:
    return {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}


def find_input(model: onnx.ModelProto, name: str, axis: int, folder: Path) -> Found:
    """What the first nodes of ``model`` show on the input ``name``, whose channels are at dimension ``axis`` of 4."""
    seen = Front(model, name, axis, folder).seen
    if not seen:
        return Found(None, False, "its first nodes could not be followed", False)
    found = [range_of(part) for part in seen]
    if any(kind != found[0] for kind in found):
        return Found(None, False, "its first nodes read the pixels in several ways", False)
    kind, part = found[0], seen[0]
    if kind == "normalised":
        plain = np.allclose(part.zero, 0) and np.allclose(part.unit, 1)
        return Found(None, False, "no normalisation was found in its first nodes" if plain else
                     f"its first nodes, up to {part.node}, expect values around {numbers(part.zero)} that spread over "
                     f"{numbers(part.unit)}", True)
    if kind == "unclear":
        return Found(None, False, f"its first nodes map {numbers(part.zero)} to 0 with a unit of {numbers(part.unit)}, not a "
                     f"usual normalisation", False)
    words = f"its first nodes compute {formula(part)}"
    input_, step = (RAW, COLOUR_STEP) if kind == "raw" else (ModelInput((0.0,), (255.0,)), COLOUR_STEP / 255)
    red_first = part.zero[np.argsort(part.source)]
    colours = len(red_first) == 3 and abs(red_first[0] - red_first[2]) > step
    if colours and red_first[0] < red_first[2]:
        input_ = replace(input_, bgr=True)
    return Found(input_, colours, words, True)


def range_of(seen: Seen) -> str:
    """Which pixels a node expects: "raw" (0 to 255), "unit" (0 to 1), "normalised" (around 0), or "unclear"."""
    zero, unit = seen.zero, seen.unit
    if not (np.isfinite(zero).all() and np.isfinite(unit).all()) or zero.min() < -LARGEST_ZERO or unit.max() > 1000 \
            or zero.max() > 300 or unit.min() < 0.02:
        return "unclear"
    raw = (zero > LARGEST_ZERO) | (unit > LARGEST_UNIT)
    if raw.any():
        return "raw" if raw.all() else "unclear"
    half = np.allclose(zero, 0.5, atol=0.02) and np.allclose(unit, 0.5, atol=0.02)
    return "unit" if half or (zero >= 0.2).all() and (zero <= 0.8).all() and (unit <= 0.35).all() else "normalised"


def formula(seen: Seen) -> str:
    """(x - ZERO) / UNIT in the numbers of the model's input."""
    order = np.argsort(seen.source)
    zero, unit = numbers(seen.zero[order]), numbers(seen.unit[order])
    return f"x / {unit}" if np.allclose(seen.zero, 0) else f"(x - {zero}) / {unit}"


def numbers(values: np.ndarray) -> str:
    """One number if all are the same, else all of them."""
    same = np.allclose(values, values[0], rtol=1e-4)
    return ":".join(f"{value:.4g}" for value in (values[:1] if same else values))
