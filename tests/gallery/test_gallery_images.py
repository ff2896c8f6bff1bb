"""New vectors from images: which image belongs to an id, what a model makes of it, and what is left out."""

import time

import cv2
import numpy as np
import pytest
import torch
from gallery_lance import COUNT, make, worker_of
from gallery_toys import OLD, People, rows_of
from photo_toys import encoded

from gallery.checks import check_old_model
from gallery.sources import EmbeddedImages, Images, Reader
from gallery.store import open_store
from utils.errors import UserError

pytest.importorskip("lancedb", reason="pip install -r requirements-stores.txt")


class ToyModel:
    """An "embedding" that is the mean colour of a 4 x 4 grid, mapped by a matrix."""

    image_size, fingerprint = 16, None

    def __init__(self, matrix):
        self.matrix, self.dim = matrix, matrix.shape[1]

    def replicas(self):
        def embed(images, mirror=True):
            x = images.numpy().reshape(len(images), 4, 4, 4, 4, 3).mean((2, 4)).reshape(len(images), -1) / 127.5 - 1
            return np.stack([(x @ self.matrix).astype(np.float32)] * 2)
        return [embed]


def picture(row: int) -> bytes:
    colours = np.random.default_rng(row).integers(0, 256, (4, 4, 3)).astype(np.uint8)
    return encoded(np.kron(colours, np.ones((4, 4, 1), np.uint8)), ".png")


@pytest.fixture
def faces(place):
    """(place, the old model, the new model): a gallery whose vectors are embeddings of the pictures in place/images."""
    draw, people = np.random.default_rng(5), People(COUNT)
    old, new = ToyModel(draw.standard_normal((48, 32))), ToyModel(draw.standard_normal((48, 48)))
    (place / "images").mkdir()
    for row, entry in enumerate(people.ids()):
        (place / f"images/{entry}.png").write_bytes(picture(row))
    for side, model in (("old", old), ("new", new)):
        pixels = np.stack([cv2.imdecode(np.frombuffer(picture(row), np.uint8), 1)[:, :, ::-1] for row in range(COUNT)])
        setattr(people, side, model.replicas()[0](torch.from_numpy(np.ascontiguousarray(pixels)))[0])
    people.map = np.linalg.lstsq(people.new, people.old, rcond=None)[0].astype(np.float32)
    make(place, people)
    return place, old, new, people


def source(place, model, rate=None, images="images") -> EmbeddedImages:
    return EmbeddedImages(Images(place / images), model, Reader(16, False, None), rate)


def test_images_are_embedded_and_those_that_are_gone_or_corrupt_stay_old(faces):
    place, _, new, people = faces
    (place / "images/p0001.png").unlink()
    (place / "images/p0002.png").write_bytes(picture(2)[:60])
    (place / "images/p0003.png").write_bytes(encoded(np.zeros((20, 20, 3), np.uint8)))
    result = worker_of(place, source(place, new)).work("random", 1.0)
    assert result.missing["p0001"] == "no image" and "p0002.png" in result.missing["p0002"]
    assert "has 20x20 pixels" in result.missing["p0003"] and len(result.missing) == 3
    rows = rows_of("lancedb", str(place / "lance"), "gallery__new")
    assert set(rows) == set(people.ids()) - {"p0001", "p0002", "p0003"}
    for row in range(4, COUNT):
        np.testing.assert_allclose(rows[f"p{row:04}"]["vector"], people.new[row], rtol=1e-5)


def test_a_table_of_images_and_several_images_of_an_entry(faces):
    place, _, new, people = faces
    lines = [f"p{row:04},images/p{row:04}.png" for row in range(COUNT)] + ["p0000,images/p0009.png"]
    (place / "list.csv").write_text("id,path\n" + "\n".join(lines))
    vectors, without = source(place, new, images="list.csv").vectors(["p0000", "p0001", "nobody"], np.zeros((3, 32)))
    assert without == {"nobody": "no image"}
    np.testing.assert_allclose(vectors[0], (people.new[0] + people.new[9]) / 2, rtol=1e-5)
    np.testing.assert_allclose(vectors[1], people.new[1], rtol=1e-5)


def test_how_an_image_belongs_to_an_id(place):
    for name in ("a/x.png", "b/x.png", "c/one.png", "c/two.png", "7.jpg"):
        (place / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        (place / "images" / name).write_bytes(b"")
    images = Images(place / "images")
    def names(entry):
        return [path.relative_to(place / "images").as_posix() for path in images.of(entry)]
    assert names("a/x") == ["a/x.png"] == names("a/x.png") and names(7) == ["7.jpg"] and names("nobody") == []
    assert names("c") == ["c/one.png", "c/two.png"] and names("one") == ["c/one.png"]
    with pytest.raises(UserError, match=r"the id x belongs to .*a/x.png and to .*b/x.png"):
        images.of("x")


def test_the_rate_is_a_limit(faces):
    place, _, new, _ = faces
    slow = source(place, new, rate=100)
    begin = time.monotonic()
    for _ in range(3):
        slow.vectors([f"p{row:04}" for row in range(20)], np.zeros((20, 32)))
    assert time.monotonic() - begin >= 0.4 - 0.01       # 40 images before the last 20


def test_the_old_model_shows_whether_the_stored_vectors_are_its_own(faces):
    place, old, new, people = faces
    store = open_store(str(place / "lance"))
    table = store.table("gallery")
    assert "a mean cosine of 1.000" in check_old_model(store, table, source(place, old), people.ids(), OLD)
    other = ToyModel(np.random.default_rng(77).standard_normal((48, 32)))
    with pytest.raises(UserError, match="the stored vectors of gallery are not those of old"):
        check_old_model(store, table, source(place, other), people.ids(), OLD)
