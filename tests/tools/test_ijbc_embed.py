"""Embedding: order, sharing among devices, the cache, and the three kinds of model files."""

import threading
import time
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn
from toy import write_ijb

from backbones import get_model
from evaluation.embed import AlignedFaces, embed_batches, embeddings
from evaluation.models import find_devices, open_model
from evaluation.protocol import read_images
from utils.errors import UserError

CPU = [torch.device("cpu")]


@pytest.fixture(autouse=True)
def one_thread():
    """Tiny tensors: several threads would only wait for each other on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class MeanColour:
    """A model without weights: mean colour of the left half of the image, and of its mirror image."""

    fingerprint, image_size, dim, precision, pixel_scale = "a" * 64, 16, 3, "float32", 127.5

    def __init__(self, copies: int = 1):
        self.calls, self.copies = 0, copies

    def replicas(self) -> list:
        return [self.embed] * self.copies

    def embed(self, images: torch.Tensor) -> np.ndarray:
        self.calls += 1
        assert images.dtype == torch.uint8 and images.shape[1:] == (16, 16, 3)
        return torch.stack([x[:, :, :8].float().mean((1, 2)) for x in (images, images.flip(2))]).numpy()


@pytest.fixture
def images(tmp_path):
    write_ijb(tmp_path, subjects=4)
    return read_images(tmp_path, "IJBC")


@pytest.mark.parametrize("workers, copies", [(0, 1), (2, 1), (0, 3)])
def test_rows_are_the_images_in_order(images, tmp_path, workers, copies):
    found = embeddings(MeanColour(copies), images, tmp_path / "kept", batch_size=5, workers=workers)
    faces = AlignedFaces(images, 16)
    for i in range(len(images)):
        face = faces[i][0].astype(np.float64)
        np.testing.assert_allclose(found[:, i], [face[:, :8].mean((0, 1)), face[:, 8:].mean((0, 1))], atol=1e-4)


def test_replicas_take_turns_and_never_two_batches_at_once():
    busy, seen, started = [False, False], [], threading.Barrier(2, timeout=30)

    def replica(which: int):
        def embed(faces):
            assert not busy[which], "a replica was given a second batch before its first was done"
            busy[which] = True
            if int(faces[0]) < 2:
                started.wait()              # the first two batches are in work at once, or this times out
            time.sleep(0.02 * which)        # the second one is slower: the order must not follow the speed
            seen.append((which, int(faces[0])))
            busy[which] = False
            return faces.numpy() * 10
        return embed

    batches = [(torch.tensor([k]), torch.ones(1, dtype=torch.bool)) for k in range(7)]
    found = [int(features[0]) for _, features in embed_batches([replica(0), replica(1)], batches)]
    assert found == [0, 10, 20, 30, 40, 50, 60]
    assert sorted(seen) == [(0, 0), (0, 2), (0, 4), (0, 6), (1, 1), (1, 3), (1, 5)]


def test_kept_embeddings_are_used_until_something_changes(images, tmp_path):
    def calls(**changes) -> int:
        model = MeanColour()
        vars(model).update({k: v for k, v in changes.items() if k != "force"})
        embeddings(model, images, tmp_path / "kept", 100, 0, changes.get("force", False))
        return model.calls

    assert [calls(), calls()] == [1, 0]
    assert calls(force=True) == 1
    assert [calls(fingerprint="b" * 64), calls(pixel_scale=128.0), calls(precision="float16")] == [1, 1, 1]
    (images.folder / "1.jpg").write_bytes((images.folder / "9.jpg").read_bytes() + b"\0")
    assert [calls(), calls()] == [1, 0]
    arrays = sorted((tmp_path / "kept").glob("*.npy"))
    assert len(arrays) == 5                                     # each under its own name, with its origin, no .part left
    assert sorted((tmp_path / "kept").iterdir()) == sorted([*arrays, *(file.with_suffix(".json") for file in arrays)])


def test_a_torn_file_is_named_and_a_failure_leaves_nothing(images, tmp_path):
    embeddings(MeanColour(), images, tmp_path, 100, 0)
    file = next(tmp_path.glob("*.npy"))
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(UserError, match=f"{file.name} is not a whole .npy file.*-F"):
        embeddings(MeanColour(), images, tmp_path, 100, 0)
    embeddings(MeanColour(), images, tmp_path, 100, 0, force=True)
    np.load(file, mmap_mode="r+")[1, 3] = 0                     # whole, but other numbers
    with pytest.raises(UserError, match=f"{file.name} is corrupt.*checksum differs.*-F"):
        embeddings(MeanColour(), images, tmp_path, 100, 0)

    model = MeanColour()
    model.embed = lambda faces: np.full((2, len(faces), 3), np.nan, np.float32)
    with pytest.raises(UserError, match="NaN or infinity for .*/1.jpg"):
        embeddings(model, images, tmp_path / "other", 100, 0)
    assert list((tmp_path / "other").iterdir()) == []


@pytest.mark.parametrize("workers", [0, 1])
def test_an_image_that_does_not_decode_is_named(images, tmp_path, workers):
    (images.folder / "8.jpg").write_bytes(b"no image")
    with pytest.raises(UserError, match=r"8\.jpg is no image that OpenCV can decode"):
        embeddings(MeanColour(), images, tmp_path / "kept", 5, workers)


def test_landmarks_that_cannot_align_are_named(images):
    images.landmarks[3] = 50
    with pytest.raises(UserError, match="landmarks of 4.jpg .row 4"):
        AlignedFaces(images, 16)


# --- model files -----------------------------------------------------------------------------------------

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
        model = open_model(file, "mbf", CPU, False, scale)
        assert (model.image_size, model.dim, model.precision) == (16, 8, "float32")
        expected = reference(network, scale)
        found = model.replicas()[0](FACES)
        np.testing.assert_allclose(found, expected, atol=1e-4 * expected.abs().max())


def write_onnx(file: Path, batch: int | str, normalises: bool = False) -> nn.Module:
    """A linear network of 16 x 16 images, with its own normalisation in front if asked for; as torch module."""
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
    model = open_model(str(tmp_path / "a.onnx"), "", CPU, False, 127.5)
    assert (model.image_size, model.dim) == (16, 4)
    np.testing.assert_allclose(model.replicas()[0](FACES), expected, atol=1e-5)


def test_onnx_file_that_normalises_gets_raw_pixels(tmp_path):
    expected = reference(write_onnx(tmp_path / "a.onnx", "N", normalises=True), scale=128)
    model = open_model(str(tmp_path / "a.onnx"), "", CPU, False, 127.5)
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
            np.testing.assert_allclose(open_model(str(folder / "b.onnx"), "", CPU, False, 127.5).replicas()[0](FACES), expected,
                                       atol=1e-5)
        elif location == "w.bin":
            for _ in range(2):
                opened = open_model(str(folder / "b.onnx"), "", CPU, False, 127.5)
                prints.add(opened.fingerprint)
                if len(prints) == 1:
                    np.testing.assert_allclose(opened.replicas()[0](FACES), expected, atol=1e-5)
                (folder / "w.bin").write_bytes(bytes((folder / "w.bin").stat().st_size))
        else:
            with pytest.raises(UserError, match="b.onnx takes weights from"):
                open_model(str(folder / "b.onnx"), "", CPU, False, 127.5)
    assert len(prints) == 2         # the weights beside are part of what the model is


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
        model = open_model(f"{tmp_path / 'm'},3", "", CPU, False, 127.5)
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
            open_model(str(file), network, CPU, fp16, 127.5)

    torch.save(get_model("mbf", num_features=8, image_size=16).state_dict(), tmp_path / "model.pt")
    (tmp_path / "bad.onnx").write_bytes(b"no onnx")
    write_onnx(tmp_path / "a.onnx", "N")
    refused(tmp_path / "none.pt", "no model file .*none.pt")
    refused(tmp_path / "model.pt", "model.pt does not hold a r18", network="r18")
    refused(tmp_path / "none.onnx", "no model file .*none.onnx")
    refused(tmp_path / "bad.onnx", "bad.onnx is no ONNX model")
    refused(tmp_path / "a.onnx", "--fp16 is for PyTorch checkpoints", fp16=True)
    refused(tmp_path / "model,x", "expected MXNet's PREFIX,EPOCH")
    refused(tmp_path / "model,0", "no file .*model-symbol.json")


def test_devices():
    assert find_devices("cpu") == CPU
    for name, message in (("tpu", "expected cpu, cuda"), ("meta", "expected cpu, cuda"),
                          ("cuda:99", "99: this machine")):
        with pytest.raises(UserError, match=message):
            find_devices(name)


def test_several_gpus_are_all_taken(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    assert find_devices("cuda") == [torch.device("cuda", k) for k in range(3)]
    assert find_devices("cuda:1") == [torch.device("cuda", 1)]


def test_images_are_read_in_colour(images):
    grey = np.full((112, 112), 77, np.uint8)
    cv2.imwrite(str(images.folder / "2.jpg"), grey)
    face, readable = AlignedFaces(images, 112)[1]
    assert readable and face.shape == (112, 112, 3)
    assert np.abs(face.astype(int) - 77)[10:-10, 10:-10].max() <= 1
