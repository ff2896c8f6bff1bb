"""Vectors from elsewhere of an evaluation set: any order of their ids gives the rows of the landmark file, or a sentence."""

import sys

import numpy as np
import pytest
from toy import write_ijb

from tools.import_features import import_features
from utils.errors import UserError

DIM = 12


@pytest.fixture
def evaluation(tmp_path, monkeypatch):
    """An evaluation set of 8 people, 48 images, listed as by make_ijb, but backwards; the tool on vectors in another order."""
    write_ijb(tmp_path / "ijb", subjects=8)
    rows = ["number\ttemplate\tsubject\tperson\tpath", *(f"{n}\t{(n + 1) // 2}\t{(n - 1) // 6}\tq\tq{(n - 1) // 6}/{50 - n}.jpg"
                                                         for n in range(1, 49))]
    draw = np.random.default_rng(0)
    people = np.repeat(draw.normal(size=(8, DIM)), 6, 0)
    wanted = (people + draw.normal(size=people.shape) / 4).astype(np.float32)
    order = draw.permutation(48)

    def call(ids: list[str], *flags: str, listed: bool = True) -> tuple[np.ndarray, np.ndarray]:
        if listed:
            (tmp_path / "ijb/images.txt").write_text("\n".join([rows[0], *rows[:0:-1]]) + "\n")
        np.savez(tmp_path / "v.npz", vectors=wanted[order], ids=np.array(ids)[order])
        monkeypatch.setattr(sys, "argv", ["x", str(tmp_path / "v.npz"), "--ijb", str(tmp_path / "ijb"), "--out",
                                          str(tmp_path / "old.npy"), *flags])
        import_features.main()
        return np.load(tmp_path / "old.npy"), wanted
    return call


PICTURES = [f"q{(n - 1) // 6}/{50 - n}.jpg" for n in range(1, 49)]


@pytest.mark.parametrize("ids, listed", [(PICTURES, True), ([f"x/y/{name}" for name in PICTURES], True),
                                         ([f"{n}.jpg" for n in range(1, 49)], False)])
def test_vectors_of_an_evaluation_set_in_the_order_of_the_landmark_file(evaluation, ids, listed, capsys):
    """The ids are paths of the pictures, or names of the image files."""
    found, wanted = evaluation(ids, listed=listed)
    assert np.array_equal(found, wanted) and not capsys.readouterr().err
    with pytest.raises(UserError, match="old.npy exists; give another --out"):
        evaluation(ids, listed=listed)
    evaluation(ids, "--force", listed=listed)


def test_ids_that_can_be_two_names_are_refused(evaluation):
    """Picture q0/49.jpg became image 1.jpg: 2.jpg is both an image file and another picture."""
    with pytest.raises(UserError, match="can be names of the image files in loose_crop and of the pictures"):
        evaluation([f"{n}.jpg" for n in range(2, 50)][:47] + ["1.jpg"])


def test_an_evaluation_image_without_vector_and_permuted_vectors(evaluation, capsys):
    with pytest.raises(UserError, match="1 of 48 images have no vector"):
        evaluation([*PICTURES[:47], "q9/0.jpg"])
    with pytest.raises(UserError, match="no id of .*v.npz is the path or the file name"):
        evaluation([f"z{n}" for n in range(48)])
    evaluation([PICTURES[i] for i in np.random.default_rng(3).permutation(48)])
    assert "do ids and vectors belong together?" in capsys.readouterr().err


def test_a_list_of_other_images_is_refused(evaluation, tmp_path):
    others = {"one less": "", "another": "49\t25\t8\tq\tq8/1.jpg\n", "no subject": "1\t1\tZoe\tq\tq0/49.jpg\n",
              "another template": "1\t2\t0\tq\tq0/49.jpg\n"}
    for (_, other), lines in zip(others.items(), (47, 48, 47, 48), strict=True):
        evaluation(PICTURES, "--force")
        file = tmp_path / "ijb/images.txt"
        file.write_text("".join(file.read_text().splitlines(keepends=True)[:-1]) + other)
        with pytest.raises(UserError, match=f"lists {lines} images, the landmark file 48, or others; make both again"):
            evaluation(PICTURES, "--force", listed=False)


@pytest.mark.parametrize("flags", [["--SD", "f12_theirs_class100", "--ijb", "ijb", "--out", "a.npy"],
                                   ["--ijb", "ijb"], [], ["--SD", "f12_theirs_class100", "--out", "a.npy"]])
def test_training_or_evaluation_images(monkeypatch, flags):
    monkeypatch.setattr(sys, "argv", ["x", "v.npz", *flags])
    with pytest.raises(UserError, match="expected --SD for vectors of training images, or --ijb and --out"):
        import_features.main()
