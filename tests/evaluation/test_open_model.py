"""The three kinds of model files against the same network in plain torch or numpy."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from backbones import get_model
from evaluation.inputs import InputOptions
from evaluation.models import find_devices, open_model
from utils.errors import UserError

CPU = [torch.device("cpu")]
FACES = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (5, 16, 16, 3)).astype(np.uint8))


def reference(network: nn.Module, scale: float = 127.5) -> torch.Tensor:
    x = (FACES.float() - 127.5).div(scale).permute(0, 3, 1, 2).contiguous()
    with torch.no_grad():
        return torch.stack([network.eval()(x), network(torch.flip(x, [3]))])


def test_torch_checkpoint(tmp_path):
    torch.manual_seed(0)
    network = get_model("mbf", num_features=8, image_size=16)
    file = str(tmp_path / "model.pt")
    torch.save(network.state_dict(), file)
    for scale in (127.5, 128.0):
        model = open_model(file, "mbf", CPU, False, InputOptions(scale=scale))
        assert (model.image_size, model.dim, model.precision) == (16, 8, "float32")
        expected = reference(network, scale)
        found = model.replicas()[0](FACES)
        np.testing.assert_allclose(found, expected, atol=1e-4 * expected.abs().max())


def write_onnx(file: Path, batch: int | str, normalises: bool = False) -> nn.Module:
    """A linear network of 16 x 16 images, with its own normalisation in front if ``normalises``; returned as a torch module."""
    torch.manual_seed(1)
    network = nn.Sequential(nn.Flatten(), nn.Linear(768, 4))
    tensors = {"w": network[1].weight.detach().numpy().T.copy(), "b": network[1].bias.detach().numpy(),
               "mean": np.float32(127.5), "factor": np.float32(1 / 128)}
    nodes = [helper.make_node("Flatten", ["x" if normalises else "input"], ["flat"]),
             helper.make_node("Gemm", ["flat", "w", "b"], ["embedding"])]
    if normalises:
        nodes[:0] = [helper.make_node("Sub", ["input", "mean"], ["c"]),
                     helper.make_node("Mul", ["c", "factor"], ["x"])]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [batch, *shape])
            for name, shape in (("input", (3, 16, 16)), ("embedding", (4,)))]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:],
                              [numpy_helper.from_array(np.asarray(v), k) for k, v in tensors.items()])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), file)
    return network


@pytest.mark.parametrize("batch", ["N", 1, 4])
def test_onnx_file_with_free_and_with_fixed_batch(tmp_path, batch):
    expected = reference(write_onnx(tmp_path / "a.onnx", batch))
    model = open_model(str(tmp_path / "a.onnx"), "", CPU, False, InputOptions())
    assert (model.image_size, model.dim) == (16, 4)
    np.testing.assert_allclose(model.replicas()[0](FACES), expected, atol=1e-5)


def test_onnx_file_that_normalises_gets_raw_pixels(tmp_path):
    expected = reference(write_onnx(tmp_path / "a.onnx", "N", normalises=True), scale=128)
    model = open_model(str(tmp_path / "a.onnx"), "", CPU, False, InputOptions())
    np.testing.assert_allclose(model.replicas()[0](FACES), expected, atol=1e-5)


@pytest.mark.parametrize("where", ["initializer", "constant"])
def test_onnx_weights_come_from_the_models_folder_only(tmp_path, where):
    folder = tmp_path / "in"
    folder.mkdir()
    expected = reference(write_onnx(folder / "a.onnx", "N"))
    model = onnx.load(folder / "a.onnx")
    weight = next(tensor for tensor in model.graph.initializer if tensor.name == "w")
    for outside in (folder, tmp_path):
        (outside / "w.bin").write_bytes(weight.raw_data)
    weight.ClearField("raw_data")
    if where == "constant":
        model.graph.node.insert(0, helper.make_node("Constant", [], ["w"], value=weight))
        model.graph.initializer.remove(weight)
        weight = model.graph.node[0].attribute[0].t
    weight.data_location = TensorProto.EXTERNAL
    prints = set()
    (folder / "sub").mkdir()
    (folder / "sub/w.bin").write_bytes((folder / "w.bin").read_bytes())
    for location in ("./sub/w.bin", "w.bin", "../w.bin", "sub/../../w.bin", str(tmp_path / "w.bin"), "..", "absent.bin"):
        del weight.external_data[:]
        weight.external_data.add(key="location", value=location)
        (folder / "b.onnx").write_bytes(model.SerializeToString())
        if location == "./sub/w.bin":
            opened = open_model(str(folder / "b.onnx"), "", CPU, False, InputOptions())
            np.testing.assert_allclose(opened.replicas()[0](FACES), expected, atol=1e-5)
        elif location == "w.bin":
            for _ in range(2):
                opened = open_model(str(folder / "b.onnx"), "", CPU, False, InputOptions())
                prints.add(opened.fingerprint)
                if len(prints) == 1:
                    np.testing.assert_allclose(opened.replicas()[0](FACES), expected, atol=1e-5)
                (folder / "w.bin").write_bytes(bytes((folder / "w.bin").stat().st_size))
        else:
            with pytest.raises(UserError, match="b.onnx reads weights from"):
                open_model(str(folder / "b.onnx"), "", CPU, False, InputOptions())
    assert len(prints) == 2         # the fingerprint covers the external weights


def test_mxnet_files(tmp_path):
    mx = pytest.importorskip("mxnet", exc_type=Exception)
    for inside in (True, False):
        x = mx.sym.Variable("data")
        x = (x - 127.5) * 0.0078125 if inside else x
        x = mx.sym.Pooling(x, kernel=(28, 28), stride=(28, 28), pool_type="avg")
        x = mx.sym.FullyConnected(x, num_hidden=4, name="fc1")
        shapes, _, _ = x.infer_shape(data=(1, 3, 112, 112))
        draw = np.random.default_rng(2)
        arg = {name: draw.standard_normal(shape).astype(np.float32)
               for name, shape in zip(x.list_arguments(), shapes, strict=True) if name != "data"}
        mx.model.save_checkpoint(str(tmp_path / "m"), 3, x, {k: mx.nd.array(v) for k, v in arg.items()}, {})
        model = open_model(f"{tmp_path / 'm'},3", "", CPU, False, InputOptions())
        assert (model.image_size, model.dim) == (112, 4)
        faces = draw.integers(0, 256, (3, 112, 112, 3)).astype(np.uint8)
        pixels = (faces - 127.5) / (128 if inside else 127.5)
        features = model.replicas()[0](torch.from_numpy(faces))
        for view, found in zip((pixels, pixels[:, :, ::-1]), features, strict=True):
            pooled = view.reshape(3, 4, 28, 4, 28, 3).mean((2, 4)).transpose(0, 3, 1, 2).reshape(3, -1)
            np.testing.assert_allclose(found, pooled @ arg["fc1_weight"].T + arg["fc1_bias"], atol=1e-4)


def test_model_files_that_do_not_fit_are_named(tmp_path):
    def refused(file, message, network="mbf", fp16=False):
        with pytest.raises(UserError, match=message):
            open_model(str(file), network, CPU, fp16, InputOptions())

    torch.save(get_model("mbf", num_features=8, image_size=16).state_dict(), tmp_path / "model.pt")
    (tmp_path / "bad.onnx").write_bytes(b"no onnx")
    write_onnx(tmp_path / "a.onnx", "N")
    refused(tmp_path / "none.pt", "no model file .*none.pt")
    refused(tmp_path / "model.pt", "model.pt does not hold a r18", network="r18")
    refused(tmp_path / "none.onnx", "no model file .*none.onnx")
    refused(tmp_path / "bad.onnx", "bad.onnx is not an ONNX model")
    refused(tmp_path / "a.onnx", "--fp16 works for PyTorch checkpoints only", fp16=True)
    refused(tmp_path / "model,x", "expected MXNet's PREFIX,EPOCH")
    refused(tmp_path / "model,0", "no file .*model-symbol.json")


def test_devices():
    assert find_devices("cpu") == CPU
    for name, message in (("tpu", "expected cpu, cuda"), ("meta", "expected cpu, cuda"),
                          ("cuda:99", "99: torch sees")):
        with pytest.raises(UserError, match=message):
            find_devices(name)


def test_several_gpus_are_all_taken(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    assert find_devices("cuda") == [torch.device("cuda", k) for k in range(3)]
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    assert find_devices("cuda:1") == [torch.device("cuda", 1)] and not torch.backends.cudnn.allow_tf32
