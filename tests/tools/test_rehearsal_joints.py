"""The drawn set: which picture of which person is where, in which colours, and that every option reaches the drawing."""

import pickle
import sys
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch

from records.faces import FaceRecords
from tools.rehearsal import make_rehearsal
from tools.rehearsal.identity import identity
from tools.rehearsal.layouts import EVALUATE, TRAIN, VERIFY, encode, write_bin, write_ijb, write_training_set
from tools.rehearsal.regression import Regression
from tools.rehearsal.render import Difficulty, Picture, render
from utils.errors import UserError

SETTINGS = dict(seed=3, size=16, difficulty=Difficulty().scaled(0.5), workers=1)


def drawn(number: int, image: int, scene: int, loose: bool = False) -> Picture:
    return render(identity(3, number), image, 16, Difficulty().scaled(0.5), scene=scene, loose=loose)


def pixels(jpeg: bytes) -> np.ndarray:
    """RGB, decoded by OpenCV."""
    return cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)[:, :, ::-1]


def test_a_picture_is_encoded_in_its_colours_and_its_quality():
    rgb = np.full((16, 16, 3), (200, 40, 90), np.uint8)
    rgb[:, 8:] = (10, 220, 30)
    found = [encode(Picture(rgb, None, 1.0, quality)) for quality in (30, 90)]
    for data in found:
        assert np.abs(pixels(data).astype(int) - rgb)[:, (0, 15)].max() < 25
    assert len(found[0]) < len(found[1])


def test_training_images_are_those_of_their_people(tmp_path):
    """Image i of person p, in a scene of its own, in the order of the people; its label is p."""
    total = write_training_set(tmp_path, 3, 3, **SETTINGS)
    faces = FaceRecords(tmp_path / "train")
    labels = faces.labels().tolist()
    assert len(faces) == total and set(labels) == {0, 1, 2} and TRAIN == 0
    for k, label in enumerate(labels):
        i = labels[:k].count(label)
        assert faces.jpeg(k) == encode(drawn(label, i, i)), (label, i)


def test_verification_pairs_are_of_one_person_and_of_two(tmp_path):
    write_bin(tmp_path / "a.bin", 4, **SETTINGS)
    images, same = pickle.loads((tmp_path / "a.bin").read_bytes())
    assert same == [True, False, True, False]
    # Pictures 0, 1 of a person; then its picture 2 and picture 1 of the next, after the last of the first.
    people = [(0, 0), (0, 1), (0, 2), (1, 1), (1, 0), (1, 1), (1, 2), (0, 1)]
    for found, (person, image) in zip(images, people, strict=True):
        assert found == encode(drawn(VERIFY + person, image, image)), (person, image)


def test_evaluation_images_belong_to_their_template_medium_and_landmarks(tmp_path):
    """Image n of the list is its person's next picture: loose, in the scene of its medium, with its landmarks and quality."""
    total = write_ijb(tmp_path, 6, 5, **SETTINGS)
    meta = tmp_path / "IJBC/meta"
    rows = [line.split(" ") for line in (meta / "ijbc_face_tid_mid.txt").read_text().splitlines()]
    points = [line.split(" ") for line in (meta / "ijbc_name_5pts_score.txt").read_text().splitlines()]
    assert len(rows) == len(points) == total == len(list((tmp_path / "IJBC/loose_crop").iterdir()))
    seen = dict.fromkeys(range(6), 0)
    for (name, template, medium), (same_name, *numbers) in zip(rows, points, strict=True):
        person = (int(template) - 1) // 3
        picture = drawn(EVALUATE + person, seen[person], int(medium), loose=True)
        seen[person] += 1
        assert name == same_name and (tmp_path / "IJBC/loose_crop" / name).read_bytes() == encode(picture), name
        np.testing.assert_allclose(np.array(numbers, float), [*picture.landmarks.ravel(), np.clip(picture.quality, 0.05, 0.999)],
                                   atol=5.1e-4)
    assert min(seen.values()) >= 3 and [int(name.split(".")[0]) for name, _, _ in rows] == list(range(1, total + 1))
    media = [int(medium) for *_, medium in rows]
    assert media == sorted(media)                   # a medium is of one template
    assert len({(template, medium) for _, template, medium in rows}) == len(set(media))


def test_every_option_of_the_command_reaches_the_drawing(tmp_path, monkeypatch):
    called = {}
    for name in ("write_training_set", "write_bin", "write_ijb"):
        monkeypatch.setattr(make_rehearsal, name,
                            lambda *args, name=name, **more: called.update({name: (args, more)}) or 1)
    out = tmp_path / "out"
    monkeypatch.setattr(sys, "argv", [
        "make_rehearsal.py", "--out", str(out), "--size", "48", "--identities", "7", "--images", "4.5", "--eval-identities", "8",
        "--impostors", "90", "--pairs", "11", "--difficulty", "1.5", "--seed", "5", "--workers", "3"])
    make_rehearsal.main()
    settings = dict(seed=5, size=48, difficulty=Difficulty().scaled(1.5), workers=3)
    assert called == {"write_training_set": ((out / "ms1m-retinaface-t1", 7, 4.5), settings),
                      "write_bin": ((out / "ms1m-retinaface-t1/rehearsal.bin", 11), settings),
                      "write_ijb": ((out / "ijb", 8, 90), settings)}
    assert settings["difficulty"] != Difficulty()
    lines = dict(line.split(" ") for line in (out / "rehearsal.txt").read_text().splitlines())
    assert lines == {"size": "48", "identities": "7", "images": "4.5", "eval_identities": "8", "impostors": "90", "pairs": "11",
                     "difficulty": "1.5", "seed": "5"}


def test_a_foreign_set_is_left_alone(tmp_path, monkeypatch):
    (tmp_path / "ms1m-retinaface-t1").mkdir()
    (tmp_path / "ms1m-retinaface-t1/train.rec").write_bytes(b"somebody's")
    monkeypatch.setattr(sys, "argv", ["make_rehearsal.py", "--out", str(tmp_path), "--size", "16", "--identities", "2",
                                      "--images", "2", "--pairs", "2", "--eval-identities", "6", "--workers", "1"])
    with pytest.raises(UserError, match="is not a rehearsal set"):
        make_rehearsal.main()
    assert (tmp_path / "ms1m-retinaface-t1/train.rec").read_bytes() == b"somebody's"


def test_a_sheet_has_a_person_in_each_row(tmp_path, monkeypatch):
    monkeypatch.setattr(make_rehearsal, "identity", lambda seed, number: (seed, number))
    monkeypatch.setattr(make_rehearsal, "render", lambda who, image, size, difficulty: Picture(
        np.full((size, size, 3), (20 * who[1], 25 * image, 100 * who[0]), np.uint8), None, 1.0, 95))
    monkeypatch.setattr(sys, "argv", ["make_rehearsal.py", "--sheet", str(tmp_path / "s.png"), "--size", "16", "--seed", "2"])
    make_rehearsal.main()
    sheet = cv2.imread(str(tmp_path / "s.png"))[:, :, ::-1]
    assert sheet.shape == (8 * 16, 10 * 16, 3)
    for person in range(8):
        for image in range(10):
            part = sheet[16 * person:16 * person + 16, 16 * image:16 * image + 16]
            assert (part == (20 * person, 25 * image, 200)).all()


def test_the_regression_is_the_mean_square_distance_of_unit_rows():
    """Against a loop; no classification loss; no gradient to the old side."""
    draw = np.random.default_rng(0)
    new, old = (draw.standard_normal((5, 4)) * [[1], [2], [3], [4], [5]] for _ in range(2))
    old /= np.linalg.norm(old, axis=1, keepdims=True)
    index = torch.tensor([4, 0, 3, 3, 1])
    method = SimpleNamespace(old=torch.from_numpy(old))
    rows = torch.from_numpy(new).requires_grad_()
    terms = Regression.forward(method, None, rows, None, index, None)
    assert terms.keys() == {"distance"} and terms["distance"].requires_grad
    slow = 0
    for i, k in enumerate(index.tolist()):
        unit = new[i] / np.sqrt(sum(new[i] ** 2))
        slow += sum((unit - old[k]) ** 2) / 5
    assert terms["distance"].item() == pytest.approx(slow, rel=1e-12)


def test_folders_of_the_command_are_its_own(tmp_path, monkeypatch):
    """A whole small run: the three sets are where the README and the evaluator look for them."""
    monkeypatch.setattr(sys, "argv", [
        "make_rehearsal.py", "--out", str(tmp_path), "--size", "16", "--identities", "2", "--images", "2", "--pairs", "2",
        "--eval-identities", "6", "--impostors", "5", "--workers", "1"])
    make_rehearsal.main()
    found = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.suffix in (".rec", ".idx", ".bin", ".csv")}
    assert found == {"ms1m-retinaface-t1/train.rec", "ms1m-retinaface-t1/train.idx", "ms1m-retinaface-t1/rehearsal.bin",
                     *(f"ijb/IJBC/meta/ijbc_1N_{name}.csv" for name in ("gallery_G1", "gallery_G2", "probe_mixed"))}
    assert (tmp_path / "ms1m-retinaface-t1/property").read_text() == "2,16,16\n"
