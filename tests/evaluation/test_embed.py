"""Embedding: the order of images, sharing among devices, and the cache."""

import threading
import time

import cv2
import numpy as np
import pytest
import torch
from toy import write_ijb

from evaluation.embed import OUTSIDE, READABLE, AlignedFaces, embed_batches, embeddings, outside_note
from evaluation.inputs import ModelInput
from evaluation.protocol import read_images
from utils.errors import UserError


class MeanColour:
    """A model without weights: mean colour of the left half of the image, and of its mirror image."""

    fingerprint, image_size, dim, precision, input, output = "a" * 64, 16, 3, "float32", ModelInput(), ""

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
            if busy[which]:
                started.abort()
                raise AssertionError("a replica was given a second batch before its first was done")
            busy[which] = True
            if int(faces[0]) < 2:
                started.wait()              # the first two batches are in work at once, or this times out
            time.sleep(0.02 * which)        # the second one is slower: the order must not follow the speed
            seen.append((which, int(faces[0])))
            busy[which] = False
            return faces.numpy() * 10
        return embed

    batches = [(np.array([k]), np.ones(1, bool)) for k in range(7)]
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
    assert [calls(fingerprint="b" * 64), calls(input=ModelInput(std=(128.0,))), calls(precision="float16"),
            calls(output="second")] == [1, 1, 1, 1]
    (images.folder / "1.jpg").write_bytes((images.folder / "9.jpg").read_bytes() + b"\0")
    assert [calls(), calls()] == [1, 0]
    arrays = sorted((tmp_path / "kept").glob("*.npy"))
    assert len(arrays) == 6                                     # each under its own name, with its origin, no .part left
    assert sorted((tmp_path / "kept").iterdir()) == sorted([*arrays, *(file.with_suffix(".json") for file in arrays)])


def test_a_corrupt_file_is_named_and_a_failure_leaves_nothing(images, tmp_path):
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
    with pytest.raises(UserError, match=r"8\.jpg is not an image that OpenCV can decode"):
        embeddings(MeanColour(), images, tmp_path / "kept", 5, workers)


def test_landmarks_that_cannot_align_are_named(images):
    images.landmarks[3] = 50
    with pytest.raises(UserError, match="landmarks of 4.jpg .row 4"):
        AlignedFaces(images, 16)


def test_images_are_read_in_colour(images):
    grey = np.full((112, 112), 77, np.uint8)
    cv2.imwrite(str(images.folder / "2.jpg"), grey)
    face, readable = AlignedFaces(images, 112)[1]
    assert readable and face.shape == (112, 112, 3)
    assert np.abs(face.astype(int) - 77)[10:-10, 10:-10].max() <= 1


@pytest.mark.parametrize("moved", [(5000, 0), (-300, 0), (0, 400), (300, -200)])
def test_images_whose_landmarks_are_outside_are_counted_and_named(images, tmp_path, capsys, moved):
    """They are embedded, and every command that uses the embeddings says so, also when they are kept."""
    images.landmarks[[7, 17]] += np.float32(moved)
    images.landmarks[9, :2] -= 500                          # two of five: a profile
    for _ in range(2):
        found = embeddings(MeanColour(), images, tmp_path / "kept", 5, 0)
        note = outside_note(found)
        assert f"warning: {note}" in capsys.readouterr().out
        assert note.startswith(f"The landmarks of 2 images lie outside of them (first: {images.names[7]})")
    images.landmarks[[7, 17]] -= np.float32(moved)
    assert outside_note(embeddings(MeanColour(), images, tmp_path / "kept", 5, 0, force=True)) is None
    wide = np.zeros((40, 90, 3), np.uint8)
    (images.folder / images.names[0]).write_bytes(cv2.imencode(".png", wide)[1].tobytes())
    images.landmarks[0] = [[50, 5], [80, 5], [60, 20], [55, 30], [75, 30]]
    assert AlignedFaces(images, 16)[0][1] == READABLE
    images.landmarks[0] = images.landmarks[0, :, ::-1]
    assert AlignedFaces(images, 16)[0][1] == OUTSIDE
