"""A small ONNX model for tests."""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


def write_model(path, opset: int = 13, dim: int = 6, shape: tuple = ("N", 6), kind: int = TensorProto.FLOAT) -> np.ndarray:
    """An ONNX model of images [N, 3, 2, 2], the embedding their product with the returned weight [12, dim]."""
    weight = np.random.default_rng(0).standard_normal((12, dim)).astype(np.float32)
    constants = [numpy_helper.from_array(weight, "w")]
    nodes = [helper.make_node("Flatten", ["input"], ["flat"]), helper.make_node("MatMul", ["flat", "w"], ["product"]),
             helper.make_node("Cast", ["product"], ["embedding"], to=kind)]
    graph = helper.make_graph(nodes, "model", [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["N", 3, 2, 2])],
                              [helper.make_tensor_value_info("embedding", kind, shape)], constants)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8), str(path))
    return weight
