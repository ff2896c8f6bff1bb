"""With mxnet 1.9.1 (requirements-mxnet.txt): its records are read, and its models are evaluated and compared by the tools."""

import json
import re

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from onnx_toys import node
from toy import jpeg, write_ijb
from toy_comparison import run_compare

from records.faces import FaceRecords
from records.images import decode
from tools.ijbc_eval import ijbc_eval

pytestmark = pytest.mark.long
DIM = 6


@pytest.fixture(scope="module")
def mx():
    return pytest.importorskip("mxnet", exc_type=Exception, reason="mxnet is not installed; requirements-mxnet.txt has it")


@pytest.fixture
def models(mx, tmp_path) -> tuple[str, str]:
    """One network, means of 28 x 28 pixels and a linear layer, as (MXNet's PREFIX,EPOCH, ONNX file).

    The MXNet model subtracts 127.5 and divides by 128 inside, as insightface's do; the ONNX file is given such pixels.
    """
    draw = np.random.default_rng(4)
    weight, bias = (draw.standard_normal(shape).astype(np.float32) for shape in ((DIM, 48), DIM))
    x = (mx.sym.Variable("data") - 127.5) * 0.0078125
    x = mx.sym.Pooling(x, kernel=(28, 28), stride=(28, 28), pool_type="avg")
    x = mx.sym.FullyConnected(x, num_hidden=DIM, name="fc1")
    mx.model.save_checkpoint(str(tmp_path / "m"), 0, x, {"fc1_weight": mx.nd.array(weight), "fc1_bias": mx.nd.array(bias)}, {})
    nodes = [node("AveragePool", "input", "cells", kernel_shape=[28, 28], strides=[28, 28]), node("Flatten", "cells", "flat"),
             node("Gemm", "flat W b", "embedding", transB=1)]
    info = [helper.make_tensor_value_info(name, 1, shape) for name, shape in (("input", ["N", 3, 112, 112]),
                                                                             ("embedding", ["N", DIM]))]
    graph = helper.make_graph(nodes, "g", info[:1], info[1:], [numpy_helper.from_array(weight, "W"),
                                                              numpy_helper.from_array(bias, "b")])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), tmp_path / "m.onnx")
    return f"{tmp_path / 'm'},0", str(tmp_path / "m.onnx")


def test_records_that_mxnet_writes_are_read(mx, tmp_path):
    """insightface's layout: a header, the images, one record for each person."""
    faces = [(label, jpeg(label, number, 16)) for label in range(3) for number in range(4)]
    out = mx.recordio.MXIndexedRecordIO(str(tmp_path / "train.idx"), str(tmp_path / "train.rec"), "w")
    pack, header = mx.recordio.pack, mx.recordio.IRHeader
    out.write_idx(0, pack(header(2, [len(faces) + 1, len(faces) + 4], 0, 0), b""))
    for key, (label, image) in enumerate(faces, 1):
        out.write_idx(key, pack(header(0, label, key, 0), image))
    for label in range(3):
        out.write_idx(len(faces) + 1 + label, pack(header(2, [1 + 4 * label, 5 + 4 * label], 0, 0), b""))
    out.close()
    found = FaceRecords(tmp_path / "train")
    assert (len(found), found.num_classes) == (12, 3) and found.labels().tolist() == [label for label, _ in faces]
    for i, (label, image) in enumerate(faces):
        pixels, read_label, index = found[i]
        assert (int(read_label), int(index)) == (label, i) and np.array_equal(np.asarray(pixels), decode(image))


def test_an_mxnet_model_is_compared_with_the_same_network_in_onnx(models, tmp_path, monkeypatch, capsys):
    """Every figure of M(onnx, mxnet) is that of M(mxnet, mxnet);"""
    mxnet_model, onnx_model = models
    write_ijb(tmp_path / "ijb")
    run_compare(monkeypatch, "-d", tmp_path / "ijb", "--old", f"old={mxnet_model}", "--new", f"new={onnx_model},input=127.5/128",
                "--draws", 20, "--backfill", 2, "--workers", 0, "--device", "cpu", "--out", tmp_path / "out")
    report = json.loads((tmp_path / "out/compare.json").read_text())
    assert "m-symbol.json is given raw pixels, RGB: a layer subtracts a mean" in capsys.readouterr().out
    assert report["matrix"]["new"]["old"] == report["matrix"]["old"]["old"]


def test_the_evaluator_gives_both_the_same_table(models, tmp_path, monkeypatch, capsys):
    write_ijb(tmp_path / "ijb")
    tables = []
    for model, words in ((models[0], ""), (models[1], "input=127.5/128")):
        arguments = ["ijbc_eval.py", "-d", str(tmp_path / "ijb"), "-m", model, "--device", "cpu", "--workers", "0", "--out",
                     str(tmp_path / "out"), *(["--input", words] if words else [])]
        monkeypatch.setattr("sys.argv", arguments)
        ijbc_eval.main()
        tables.append(re.findall(r"\d+\.\d\d", capsys.readouterr().out.split("TAR in %")[1]))
    assert tables[0] == tables[1] and len(tables[0]) > 1
