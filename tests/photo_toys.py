"""Small folders of pictures, pictures with odd contents, and a detector network whose faces are known."""

import struct
import sys
from pathlib import Path

import cv2
import numpy as np

from tools.make_rec import make_rec


def face(person: int, number: int, size: int = 16) -> np.ndarray:
    """Sixteen coloured squares, uint8 [size, size, 3]: another picture for each pair of numbers."""
    colours = np.random.default_rng([person, number]).integers(0, 256, (4, 4, 3)).astype(np.uint8)
    return np.kron(colours, np.ones((size // 4, size // 4, 1), np.uint8))


def encoded(image: np.ndarray, ending: str = ".jpg") -> bytes:
    return cv2.imencode(ending, image)[1].tobytes()


def write_people(folder: Path, people: int = 3, each: int = 4, size: int = 16) -> Path:
    """FOLDER/p0 ... /0.jpg ..."""
    for person in range(people):
        (folder / f"p{person}").mkdir(parents=True)
        for number in range(each):
            (folder / f"p{person}/{number}.jpg").write_bytes(encoded(face(person, number, size)))
    return folder


def turned(jpeg: bytes, orientation: int) -> bytes:
    """The JPEG with an EXIF tag of its orientation, 1 to 8."""
    tag = b"Exif\0\0II*\0" + struct.pack("<IHHHIHHI", 8, 1, 0x112, 3, 1, orientation, 0, 0)
    return jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(tag) + 2) + tag + jpeg[2:]


def run_make_rec(monkeypatch, folder: Path, out: Path, *options, size: int = 16) -> None:
    monkeypatch.setattr(sys, "argv", ["make_rec.py", str(folder), "--out", str(out), "--size", str(size), *map(str, options)])
    make_rec.main()


def write_stub_detector(file: Path, side: int = 640) -> Path:
    """A network with the inputs and outputs of YuNet that finds a face in each cell of 8, 16 and 32 pixels.

    Its score is the cell's mean red / 255, its box four cells wide around the cell's centre; the landmarks are the centres of the
    cells at (-1, -1), (1, -1), (0, 0), (-1, 1), (1, 1) cells from it: eyes, nose, corners of the mouth.
    """
    import onnx
    from onnx import TensorProto, helper, numpy_helper
    points = np.array([(-1, -1), (1, -1), (0, 0), (-1, 1), (1, 1)]).ravel() + 0.5
    red = np.array([[0], [0], [1 / 255]])
    nodes, constants, outputs = [], [], []

    def constant(name: str, value, dtype=np.float32) -> str:
        constants.append(numpy_helper.from_array(np.asarray(value, dtype), name))
        return name

    for stride in (8, 16, 32):
        cells = (side // stride) ** 2
        shape = constant(f"shape{stride}", [1, 3, cells], np.int64)
        nodes += [helper.make_node("AveragePool", ["input"], [f"p{stride}"], kernel_shape=[stride] * 2, strides=[stride] * 2),
                  helper.make_node("Reshape", [f"p{stride}", shape], [f"f{stride}"]),
                  helper.make_node("Transpose", [f"f{stride}"], [f"c{stride}"], perm=[0, 2, 1])]
        for name, weight, bias in (("cls", red, [0]), ("obj", red, [0]), ("kps", np.zeros((3, 10)), points),
                                   ("bbox", np.zeros((3, 4)), [0.5, 0.5, np.log(4), np.log(4)])):
            end = f"{name}_{stride}"
            nodes += [helper.make_node("MatMul", [f"c{stride}", constant(f"w{end}", weight)], [f"m{end}"]),
                      helper.make_node("Add", [f"m{end}", constant(f"b{end}", bias)], [end])]
            outputs.append(helper.make_tensor_value_info(end, TensorProto.FLOAT, [1, cells, len(bias)]))
    inputs = [helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, 3, side, side])]
    graph = helper.make_graph(nodes, "stub", inputs, outputs, constants)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), str(file))
    return file
