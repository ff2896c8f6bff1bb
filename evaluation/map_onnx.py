"""Maps as ONNX: alone, or behind the model whose features they map."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from evaluation.map_files import HIDDEN
from evaluation.map_forms import Map
from utils.errors import UserError
from utils.files import written_beside

OPSET, IR_VERSION = 13, 8       # of a map alone: onnxruntime 1.7 and later read it
OUTPUT = "mapped"               # name of the output


def map_nodes(mapping: Map, given: str) -> tuple[list, list]:
    """(nodes from the tensor ``given`` [N, d_in] to OUTPUT, their constants).  The operators are those of every opset since 9."""
    nodes: list = []
    constants: list = []

    def constant(name: str, value) -> str:
        constants.append(numpy_helper.from_array(np.asarray(value), f"map_{name}"))
        return f"map_{name}"

    def node(kind: str, *inputs: str, out: str = "", **settings) -> str:
        out = out or f"map_{len(nodes)}"
        nodes.append(helper.make_node(kind, list(inputs), [out], f"map_{len(nodes)}", **settings))
        return out

    x = node("Cast", node("Reshape", given, constant("shape", np.array([-1, mapping.dims[0]]))), to=TensorProto.FLOAT)
    norm = node("Sqrt", node("MatMul", node("Mul", x, x), constant("ones", np.ones((mapping.dims[0], 1), np.float32))))
    y = node("Add", node("MatMul", x, constant("weight", mapping.weight)), node("Mul", norm, constant("bias", mapping.bias)))
    if mapping.hidden is not None:
        w1, b1, w2 = (constant(*pair) for pair in zip(HIDDEN, mapping.hidden, strict=True))
        unit = node("Div", x, node("Max", norm, constant("tiny", np.float32(1e-12))))
        inner = node("Add", node("MatMul", unit, w1), b1)
        erf = node("Erf", node("Mul", inner, constant("scale", np.float32(0.5 ** 0.5))))
        double = node("Mul", inner, node("Add", erf, constant("one", np.float32(1))))
        gelu = node("Mul", double, constant("half", np.float32(0.5)))
        y = node("Add", y, node("Mul", norm, node("MatMul", gelu, w2)))
    node("Identity", y, out=OUTPUT)
    return nodes, constants


def output_info(mapping: Map):
    """The output of a graph: OUTPUT, float32 [N, d_out]."""
    return helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, ["N", mapping.dims[1]])


def map_model(mapping: Map) -> onnx.ModelProto:
    """The map alone: input "embedding" float32 [N, d_in], not necessarily of norm 1; output "mapped" float32 [N, d_out]."""
    nodes, constants = map_nodes(mapping, "embedding")
    given = helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["N", mapping.dims[0]])
    graph = helper.make_graph(nodes, "map", [given], [output_info(mapping)], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)


def model_and_map(file: Path, mapping: Map) -> onnx.ModelProto:
    """The ONNX model in ``file`` with the map behind its first output.

    UserError if it is not an ONNX model, is older than opset 9, has its weights in other files or another number of dimensions.
    """
    try:
        model = onnx.load(str(file), load_external_data=False)
        given = model.graph.output[0]
    except Exception as error:      # protobuf raises many types
        raise UserError(f"{file} is not an ONNX model ({str(error)[:200]}); expected the model whose features are "
                        f"mapped") from error
    opset = max((entry.version for entry in model.opset_import if entry.domain == ""), default=0)
    if opset < 9 or any(tensor.data_location == TensorProto.EXTERNAL for tensor in model.graph.initializer):
        raise UserError(f"{file} has opset {opset} or its weights in another file; expected opset 9 or later and weights in the "
                        f"ONNX file itself: export it again, or put the map alone behind it")
    size = [axis.dim_value for axis in given.type.tensor_type.shape.dim[1:]]
    if any(size) and np.prod(size) not in (0, mapping.dims[0]):
        raise UserError(f"the first output of {file} has {size} numbers for each image, the map takes {mapping.dims[0]}; "
                        f"expected the model whose features are mapped")
    nodes, constants = map_nodes(mapping, given.name)
    model.graph.node.extend(nodes)
    model.graph.initializer.extend(constants)
    del model.graph.output[:]
    model.graph.output.append(output_info(mapping))
    return model


def save_onnx(path: Path, model: onnx.ModelProto) -> None:
    """Write a model that onnxruntime loads; UserError if it does not, or if it cannot be written."""
    data = model.SerializeToString()
    session_of(data, path)
    with written_beside(path) as part:
        part.write_bytes(data)


def session_of(data: bytes, path: Path):
    """An onnxruntime session of a model in memory; UserError, which names ``path``, if it cannot be loaded."""
    try:
        return onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    except Exception as error:      # onnxruntime raises many types
        raise UserError(f"onnxruntime cannot load {path} as it would be written ({str(error)[:200]}); nothing was "
                        f"written") from error
