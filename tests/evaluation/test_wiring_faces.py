"""From an image file to the network: which model a file is opened as, and what a network is given for a face."""

from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from ijb_toys import POINTS, write_meta

from backbones import get_model
from evaluation import models
from evaluation.align import TEMPLATE
from evaluation.embed import AlignedFaces, embeddings
from evaluation.inputs import RAW, InputOptions, ModelInput
from evaluation.protocol import read_images


@pytest.mark.parametrize("file, kind, more", [
    ("a.pt", "TorchModel", ["r50"]), ("a.ONNX", "OnnxModel", []), ("a,3", "MxnetModel", [])])
def test_a_file_is_opened_by_its_kind_with_precision_and_scale(monkeypatch, file, kind, more):
    options = InputOptions(scale=128.0)
    for name in ("TorchModel", "OnnxModel", "MxnetModel"):
        monkeypatch.setattr(models, name, lambda *arguments, name=name: (name, *arguments))
    assert models.open_model(file, "r50", ["cpu"], True, options) == (kind, file, *more, ["cpu"], True, options)


def test_a_network_is_given_the_images_in_its_scale_and_then_their_mirror_images():
    pixels = np.arange(24, dtype=np.uint8).reshape(1, 2, 4, 3)          # rows, columns, red green blue
    per_channel = ModelInput((1.0, 2.0, 3.0), (4.0, 5.0, 6.0), bgr=True)
    for given, expected in ((ModelInput(std=(100.0,)), (pixels - 127.5) / 100), (RAW, pixels),
                            (per_channel, (pixels[..., ::-1] - [1, 2, 3]) / [4, 5, 6])):
        found = models.both_views(torch.from_numpy(pixels), torch.device("cpu"), given).numpy().transpose(0, 2, 3, 1)
        assert found[0] == pytest.approx(expected[0], rel=1e-6) and found[1] == pytest.approx(expected[0, :, ::-1], rel=1e-6)


@pytest.mark.parametrize("fp16", [True, False])
def test_half_precision_reaches_the_network(tmp_path, fp16):
    torch.save(get_model("mbf", num_features=8, image_size=16).state_dict(), tmp_path / "model.pt")
    model = models.open_model(str(tmp_path / "model.pt"), "mbf", [torch.device("cpu")], fp16, InputOptions())
    assert bool(model.model.fp16) == fp16 and not model.model.training


def test_the_five_points_are_arcfaces():
    assert np.abs(TEMPLATE - POINTS).max() < 1e-5


@pytest.mark.parametrize("size", [112, 56])
def test_a_face_is_aligned_by_its_landmarks_and_red_comes_first(tmp_path, size):
    """The face begins at column 20 and row 10 of the picture: its left half is red, its right half blue, a green band on top."""
    write_meta(tmp_path, [(1, 1, 1.0)], [(1, 1, 1)], {}, [(1, 1)], shift=(20, 10))
    image = np.zeros((140, 160, 3), np.uint8)
    image[:, :76], image[:, 76:], image[:38] = (10, 20, 240), (240, 20, 10), (0, 200, 0)        # BGR, as OpenCV writes it
    cv2.imwrite(str(tmp_path / "IJBC/loose_crop/1.png"), image)
    images = read_images(tmp_path, "IJBC")
    face, readable = AlignedFaces(images, size)[0]
    k = size / 112
    places = {(70, 10): (240, 20, 10), (70, 53): (240, 20, 10), (70, 59): (10, 20, 240), (70, 105): (10, 20, 240),
              (25, 50): (0, 200, 0), (31, 10): (240, 20, 10)}
    assert face.shape == (size, size, 3) and readable
    assert {at: tuple(face[int(at[0] * k), int(at[1] * k)].tolist()) for at in places} == places

    def embed(batch):                                           # what the network is given is that face
        assert np.array_equal(batch[0].numpy(), face)
        return np.full((2, 1, 3), 7, np.float32)

    model = SimpleNamespace(fingerprint="f" * 64, image_size=size, dim=3, precision="", input=RAW, output="",
                            replicas=lambda: [embed])
    assert (np.asarray(embeddings(model, images, tmp_path / "kept", 4, 0)) == 7).all()
