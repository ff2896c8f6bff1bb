"""ONNX files as they come: batches, sizes, outputs and inputs are served, or refused with one sentence."""

import numpy as np
import onnx
import pytest
import torch
from onnx_toys import SIZE, embedded, expected, network, node, write

from evaluation.inputs import InputOptions
from evaluation.models import describe, open_model
from utils.errors import UserError

CPU = [torch.device("cpu")]
FLOAT, WHOLE = np.float32, np.int64


def opened(file, words: str = ""):
    return open_model(str(file), "", CPU, False, InputOptions.parse(words, "--input"))


def images(*shape, name: str = "input", kind=FLOAT) -> dict:
    return {name: (kind, list(shape))}


RAW = [node("Sub", "input m", "a"), node("Div", "a m", "x")]


@pytest.mark.parametrize("batch", ["N", None, 1, 2, 3])
def test_free_and_fixed_batches(tmp_path, batch):
    model = opened(write(tmp_path / "a.onnx", RAW, {"m": 127.5}, inputs=images(batch, 3, SIZE, SIZE),
                         outputs={"embedding": (FLOAT, [batch, 8])}))
    assert model.batch == (batch if isinstance(batch, int) else None) and len(model.notes) == 1
    np.testing.assert_allclose(embedded(model), expected(), atol=1e-5)
    assert model.replicas()[0](torch.zeros(3, SIZE, SIZE, 3, dtype=torch.uint8), mirror=False).shape == (1, 3, 8)


def flattened(shape: list, *more) -> list:
    """The network with a Reshape to ``shape`` instead of Flatten."""
    return [network("input")[0], node("Reshape", "cells shape", "flat"), node("Gemm", "flat W b", "embedding", transB=1), *more]


def test_a_batch_of_one_that_is_fixed_inside_is_embedded_one_at_a_time(tmp_path):
    for k, (rest, constants) in enumerate([
            (flattened([1, 48]), {"shape": np.array([1, 48], WHOLE)}),
            (flattened([1, -1]), {"shape": np.array([1, -1], WHOLE)}),
            ([node("Reshape", "input shape", "x"), *network("x")], {"shape": np.array([1, 3, SIZE, SIZE], WHOLE)})]):
        model = opened(write(tmp_path / f"{k}.onnx", [], constants, rest=rest))
        assert model.batch == 1 and "computes one image at a time, because a batch of 1 is fixed inside" in model.notes[-1]
        np.testing.assert_allclose(embedded(model), expected(), atol=1e-5)
    rest = [node("Reshape", "input shape", "x"), *network("x")]
    with pytest.raises(UserError, match=r"cannot compute one or two images of 16 x 16 pixels \(.*Reshape.*export it again"):
        opened(write(tmp_path / "b.onnx", [], {"shape": np.array([4, 3, SIZE, SIZE], WHOLE)}, rest=rest))


def test_a_file_exported_in_training_mode_is_refused(tmp_path):
    """Its result depends on the other images of the batch, or on chance."""
    norm = node("BatchNormalization", "input one zero m v", "x m2 v2", training_mode=1)
    constants = {"one": np.ones(3), "zero": np.zeros(3), "m": np.zeros(3), "v": np.ones(3)}
    mixed = [node("ReduceMean", "input", "mean", axes=[0], keepdims=1), node("Sub", "input mean", "x")]
    dropout = [node("Dropout", "input half on", "x")]
    for k, (front, batch) in enumerate([([norm], "N"), (mixed, 3), (dropout, 1)]):
        file = write(tmp_path / f"{k}.onnx", front, constants | {"half": np.float32(0.5), "on": np.array(True)},
                     inputs=images(batch, 3, SIZE, SIZE))
        with pytest.raises(UserError, match=r"another embedding if the other images of the batch change.*model.eval\(\)"):
            opened(file)


def test_a_free_image_size_is_112(tmp_path):
    rest = [node("GlobalAveragePool", "input", "g"), node("Flatten", "g", "flat"),
            node("Gemm", "flat V b", "embedding", transB=1)]
    for k, (shape, size) in enumerate([(("N", 3, "H", "W"), 112), (("N", 3, None, None), 112), (("N", 3, 48, "W"), 48),
                                       (("N", "C", "H", "W"), 112)]):
        model = opened(write(tmp_path / f"{k}.onnx", [], {"V": np.ones((8, 3))}, inputs=images(*shape), rest=rest))
        assert (model.image_size, model.dim) == (size, 8)


def end(*nodes, **outputs) -> dict:
    """rest and outputs of a file whose network gives "raw"."""
    return {"rest": [*network("input", "raw"), *nodes], "outputs": outputs}


NORM = node("ReduceL2", "raw", "norm", axes=[1], keepdims=1)
UNIT = node("Div", "raw norm", "unit")
CLASS = node("ArgMax", "raw", "class", axis=1, keepdims=1)
COLUMN = node("Unsqueeze", "raw last", "column")
CONSTANTS = {"last": np.array([2, 3], WHOLE)}


@pytest.mark.parametrize("name, more, words, unit", [
    ("column", end(COLUMN, column=(FLOAT, ["N", 8, 1, 1])), "", False),
    ("norm first", end(NORM, norm=(FLOAT, ["N", 1]), raw=(FLOAT, ["N", 8])), "", False),
    ("three", end(NORM, CLASS, raw=(FLOAT, ["N", 8]), **{"class": (WHOLE, ["N", 1])}, cells=(FLOAT, ["N", 3, 4, 4])), "", False),
    ("named", end(NORM, UNIT, raw=(FLOAT, ["N", 8]), unit=(FLOAT, ["N", 8])), "output=unit", True),
    ("the other", end(NORM, UNIT, raw=(FLOAT, ["N", 8]), unit=(FLOAT, ["N", 8])), "output=raw", False)])
def test_the_embedding_is_found_among_the_outputs(tmp_path, name, more, words, unit):
    model = opened(write(tmp_path / "a.onnx", [], CONSTANTS, **more), words)
    assert any("the embedding is read from " + model.output in note for note in model.notes) == (len(more["outputs"]) > 1)
    right = expected()
    right = right / np.linalg.norm(right, axis=2, keepdims=True) if unit else right
    np.testing.assert_allclose(embedded(model), right, atol=1e-5)
    assert describe(model) == {"dim": 8, "image_size": SIZE, "input": "(x - 127.5) / 127.5", "colours": "rgb",
                               "precision": "onnx", "output": model.output, "similarity": "cosine"}


@pytest.mark.parametrize("more, words, message", [
    (end(CLASS, **{"class": (WHOLE, ["N", 1])}), "", r"gives class int64 \[2, 1\] for 2 images, expected an embedding"),
    (end(NORM, norm=(FLOAT, ["N", 1])), "", r"gives norm float32 \[2, 1\] for 2 images, expected an embedding"),
    (end(raw=(FLOAT, ["N", 8]), cells=(FLOAT, ["N", 3, 4, 4])), "output=cells", r"output=cells of .* is no embedding"),
    (end(node("ReduceMean", "raw", "one", axes=[0], keepdims=0), one=(FLOAT, [8])), "", "expected an embedding"),
    (end(node("SequenceConstruct", "raw", "list"), node("SequenceAt", "list zero", "one"), node("Cast", "one", "i", to=7),
         i=(WHOLE, ["N", 8])), "", r"gives i int64 \[2, 8\] for 2 images"),
    (end(NORM, UNIT, raw=(FLOAT, ["N", 8]), unit=(FLOAT, ["N", 8])), "", r"several outputs .* name it with output=, for example"),
    (end(raw=(FLOAT, ["N", 8])), "output=embedding", "no output embedding; expected output= with one of raw")])
def test_outputs_that_are_no_embedding_are_named(tmp_path, more, words, message):
    with pytest.raises(UserError, match=message):
        opened(write(tmp_path / "a.onnx", [], CONSTANTS | {"zero": np.array(0, WHOLE)}, **more), words)


@pytest.mark.parametrize("inputs, message", [
    (images("N", 3, SIZE, SIZE) | images("N", 3, SIZE, SIZE, name="mask"), "takes 2 inputs, input, mask; expected one"),
    (images("N", 3, SIZE, SIZE) | images(name="training", kind=np.bool_), "takes 2 inputs, input, training; expected one"),
    (images("N", 3, SIZE, SIZE) | images(2, name="size", kind=WHOLE) | images(1, name="seed"), "takes 3 inputs"),
    (images("N", 3, 112, 96), r"takes images of 112x96 pixels \(height x width\); expected square ones"),
    (images(1, 3, 16, 12), "takes images of 16x12 pixels"),
    (images("N", 96, 112, 3), "takes images of 96x112 pixels"),
    (images("N", 1, SIZE, SIZE), r"input of shape \['N', 1, 16, 16\]; expected colour images"),
    (images("N", 4, SIZE, SIZE), "expected colour images"),
    (images("N", 768), "expected colour images"),
    (images("N", 3, SIZE, SIZE, kind=np.int8), r"takes int8; expected pixels as float, float16, double or uint8"),
    (images("N", 3, SIZE, SIZE, kind=WHOLE), "takes int64; expected pixels as")])
def test_inputs_that_nobody_can_fill_are_named(tmp_path, inputs, message):
    front = [node("Cast", "input", "c", to=1), node("GlobalAveragePool", "c", "g")] if len(inputs["input"][1]) == 4 else \
        [node("Identity", "input", "g")]
    rest = [*front, node("Flatten", "g", "embedding")]
    with pytest.raises(UserError, match=message):
        opened(write(tmp_path / "a.onnx", [], inputs=inputs, rest=rest))


def test_files_that_are_no_model_say_what_they_are(tmp_path):
    for name, content, message in [
            ("empty", b"", "is empty; copy or download"), ("page", b"\n<!DOCTYPE html><html>", "is a web page"),
            ("page2", b"<HTML><head>", "is a web page"),
            ("lfs", b"version https://git-lfs.github.com/spec/v1\noid", "is a web page or a pointer of git-lfs"),
            ("text", b"no onnx", "is not an ONNX model that onnxruntime can load"),
            ("zip", b"PK\x03\x04" + bytes(100), "is not an ONNX model that onnxruntime can load")]:
        (tmp_path / f"{name}.onnx").write_bytes(content)
        with pytest.raises(UserError, match=f"{name}.onnx {message}"):
            opened(tmp_path / f"{name}.onnx")
    (tmp_path / "folder.onnx").mkdir()
    with pytest.raises(UserError, match="no model file .*folder.onnx"):
        opened(tmp_path / "folder.onnx")


@pytest.mark.parametrize("what", ["opset", "ir_version", "domain"])
def test_a_file_that_is_newer_than_the_runtime_says_so(tmp_path, what):
    model = onnx.load(write(tmp_path / "a.onnx", []))
    if what == "opset":
        model.opset_import[0].version = 99
    elif what == "domain":
        model.graph.node[0].domain = "com.example"
    else:
        model.ir_version = 99
    (tmp_path / "a.onnx").write_bytes(model.SerializeToString())
    message = "is not an ONNX model" if what == "domain" else r"needs a newer onnxruntime .*tools/export_onnx --opset"
    with pytest.raises(UserError, match=message):
        opened(tmp_path / "a.onnx")
