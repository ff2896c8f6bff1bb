"""Small ONNX files of one network, in many notations, and the same network in float64."""

from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper

SIZE = 16
DRAW = np.random.default_rng(3)
WEIGHT, BIAS = DRAW.normal(size=(8, 48)) / 7, DRAW.normal(size=8) / 7
FACES = DRAW.integers(0, 256, (5, SIZE, SIZE, 3)).astype(np.uint8)
TYPES = {np.dtype(kind): getattr(TensorProto, name) for kind, name in (
    (np.float32, "FLOAT"), (np.float16, "FLOAT16"), (np.float64, "DOUBLE"), (np.uint8, "UINT8"), (np.int8, "INT8"),
    (np.int64, "INT64"), (np.bool_, "BOOL"))}


def expected(mean=127.5, std=127.5, shift=0.0, faces=FACES) -> np.ndarray:
    """Embeddings [2, N, 8] of faces and mirror images by loops in float64: means of 4 x 4 pixels, then a linear layer.

    The network proper reads (pixel - mean) / std + shift, RGB.
    """
    out = np.empty((2, len(faces), 8))
    for view in range(2):
        for i, face in enumerate(faces):
            x = ((face if view == 0 else face[:, ::-1]).astype(np.float64) - mean) / std + shift
            cells = [x[4 * row:4 * row + 4, 4 * column:4 * column + 4, channel].mean()
                     for channel in range(3) for row in range(4) for column in range(4)]
            out[view, i] = WEIGHT @ cells + BIAS
    return out


def node(kind: str, inputs: str, output: str, **attributes):
    """A node; names are separated by spaces."""
    return helper.make_node(kind, inputs.split(), output.split(), **attributes)


def network(x: str, out: str = "embedding") -> list:
    """The nodes of the network proper."""
    return [node("AveragePool", x, "cells", kernel_shape=[4, 4], strides=[4, 4]), node("Flatten", "cells", "flat"),
            node("Gemm", "flat W b", out, transB=1)]


def write(file: Path, front: list, constants: dict | None = None, *, inputs: dict | None = None, outputs: dict | None = None,
          dtype=np.float32, rest: list | None = None, functions=(), opset: int = 17) -> str:
    """A file whose first nodes ``front`` make "x" of "input", and then the network.  Returns its name.

    constants: initialisers; float64 and lists become the network's ``dtype``.  inputs, outputs: name -> (type, shape).
    """
    values = {"W": WEIGHT, "b": BIAS} | (constants or {})
    tensors = [numpy_helper.from_array(np.asarray(value, dtype if np.asarray(value).dtype.kind == "f" else None), name)
               for name, value in values.items()]
    inputs = inputs or {"input": (dtype, ["N", 3, SIZE, SIZE])}
    outputs = outputs or {"embedding": (dtype, ["N", 8])}
    info = [[helper.make_tensor_value_info(name, TYPES[np.dtype(kind)], shape) for name, (kind, shape) in side.items()]
            for side in (inputs, outputs)]
    graph = helper.make_graph(front + (rest or network("x" if front else "input")), "g", *info, tensors)
    imports = [helper.make_opsetid("", opset)] + [helper.make_opsetid(function.domain, 1) for function in functions]
    model = helper.make_model(graph, opset_imports=imports, ir_version=8, functions=list(functions))
    file.write_bytes(model.SerializeToString())
    return str(file)


def embedded(model) -> np.ndarray:
    """Embeddings [2, N, 8] of the faces."""
    return model.replicas()[0](torch.from_numpy(FACES))


def constant_node(name: str, value, dtype=np.float32):
    """A Constant node."""
    return onnx.helper.make_node("Constant", [], [name], value=numpy_helper.from_array(np.asarray(value, dtype), name))
