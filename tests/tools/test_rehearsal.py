"""The rehearsal set: the same bytes for the same seed and any number of processes, readable layouts, disjoint people."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
from processes import run_script

from evaluation.align import similarity, warp
from records.bins import load_bin
from records.faces import FaceRecords
from records.recordio import RecordReader
from tools.rehearsal.identity import identity
from tools.rehearsal.layouts import EVALUATE, NOTE, TRAIN, VERIFY, refuse_foreign
from tools.rehearsal.render import Difficulty, render
from utils.errors import UserError
from utils.paths import ROOT


def make(out: Path, *more: str) -> Path:
    done = run_script(ROOT / "tools/rehearsal/make_rehearsal.py", "--out", out, "--size", "32", "--identities", "6",
                      "--images", "5", "--eval-identities", "6", "--pairs", "12", "--impostors", "50", *more)
    assert done.returncode == 0, done.stderr
    return out


def digests(folder: Path) -> dict[str, str]:
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest()
            for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture(scope="module")
def drawn(tmp_path_factory) -> Path:
    return make(tmp_path_factory.mktemp("drawn") / "a", "--workers", "1")


@pytest.mark.long
def test_same_seed_same_bytes_for_any_number_of_processes(drawn, tmp_path):
    assert digests(make(tmp_path / "b", "--workers", "2")) == digests(drawn)
    assert digests(make(tmp_path / "c", "--seed", "1")) != digests(drawn)


def test_training_set(drawn):
    faces = FaceRecords(drawn / "ms1m-retinaface-t1")
    labels = faces.labels()
    assert (faces.num_classes, faces.image_size) == (6, 32)
    assert (np.bincount(labels) >= 2).all() and (np.diff(labels) >= 0).all()
    reader = RecordReader(drawn / "ms1m-retinaface-t1/train")
    assert reader.unpack(0)[0].label.tolist() == [len(faces) + 1, len(faces) + 7]
    for person in range(6):
        first, last = reader.unpack(len(faces) + 1 + person)[0].label.astype(int)
        assert np.array_equal(np.flatnonzero(labels == person) + 1, np.arange(first, last))


def test_verification_pairs(drawn):
    images, same = load_bin(drawn / "ms1m-retinaface-t1/rehearsal.bin", 32)
    assert len(images) == 24 and same.sum() == 6


def test_evaluation_layout(drawn):
    meta = drawn / "ijb/IJBC/meta"
    rows = [line.split(" ") for line in (meta / "ijbc_face_tid_mid.txt").read_text().splitlines()]
    points = [line.split(" ") for line in (meta / "ijbc_name_5pts_score.txt").read_text().splitlines()]
    assert [r[0] for r in rows] == [p[0] for p in points] and all(len(p) == 12 for p in points)
    assert len(list((drawn / "ijb/IJBC/loose_crop").iterdir())) == len(rows)
    pairs = np.loadtxt(meta / "ijbc_template_pair_label.txt", dtype=int)
    assert pairs[:, 2].sum() == 6 * 3 and len(pairs) == 18 + 50          # three templates: three pairs a person
    sides = {name: np.loadtxt(meta / f"ijbc_1N_{name}.csv", dtype=int, delimiter=",", skiprows=1)
             for name in ("gallery_G1", "gallery_G2", "probe_mixed")}
    first, second = set(sides["gallery_G1"][:, 1]), set(sides["gallery_G2"][:, 1])
    probes = set(sides["probe_mixed"][:, 1])
    assert not first & second and probes > first | second
    listed = np.concatenate(list(sides.values()))
    assert len(np.unique(listed[:, 0])) == len(listed) == 16            # the first templates of 2 people are not probes
    assert ((listed[:, 0] - 1) // 3 == listed[:, 1]).all()               # templates 3p + 1 to 3p + 3 are person p's
    assert all(((a - 1) // 3 == (b - 1) // 3) == same for a, b, same in pairs)


def test_a_second_run_replaces_a_rehearsal_set_and_nothing_else(drawn, tmp_path):
    smaller = ["--identities", "2", "--images", "2", "--pairs", "2", "--eval-identities"]
    out = make(tmp_path, *smaller, "9", "--workers", "1")
    rows = len(list((out / "ijb/IJBC/loose_crop").iterdir()))
    make(out, *smaller, "6", "--workers", "1")
    assert 18 <= len(list((out / "ijb/IJBC/loose_crop").iterdir())) < rows     # none of the first run is left
    assert not list(out.rglob("*.part"))
    (out / NOTE).unlink()
    with pytest.raises(UserError, match="is not a rehearsal set"):
        refuse_foreign(out)


def test_people_of_the_three_sets_are_different():
    assert TRAIN + 1_000_000 <= VERIFY and VERIFY + 1_000_000 <= EVALUATE


def test_a_picture_depends_only_on_its_own_numbers():
    alone = render(identity(3, 5), 2, 32)
    for number in (9, 4):
        render(identity(3, number), 0, 32)
    again = render(identity(3, 5), 2, 32)
    assert np.array_equal(alone.rgb, again.rgb) and np.array_equal(alone.landmarks, again.landmarks)
    assert not np.array_equal(alone.rgb, render(identity(3, 6), 2, 32).rgb)


def test_landmarks_are_where_the_evaluator_expects_them():
    for size in (32, 112):
        crop = render(identity(0, 2), 1, size)
        np.testing.assert_allclose(similarity(crop.landmarks[None], size)[0], [[1, 0, 0], [0, 1, 0]], atol=2e-3 * size)


def test_an_aligned_loose_picture_is_the_crop():
    """Without noise, blur and pose the two differ by resampling only: moved by 0.4 pixels they fit worse."""
    who, size, still = identity(0, 1), 64, Difficulty().scaled(0)
    crop, loose = render(who, 0, size, still), render(who, 0, size, still, loose=True)
    matrix = similarity(loose.landmarks[None], size)[0]

    def error(dx, dy):
        moved = matrix + [[0, 0, dx], [0, 0, dy]]
        face = (slice(20, -10), slice(14, -14))      # the backgrounds differ: each fills its picture
        return np.abs(warp(loose.rgb[:, :, ::-1], moved, size)[face].astype(float) - crop.rgb[face]).mean()

    assert error(0, 0) < 0.8 * min(error(0.4, 0), error(-0.4, 0), error(0, 0.4), error(0, -0.4))


def test_frames_of_one_scene_share_light_and_clothes():
    who = identity(0, 4)
    colour = {(image, scene): render(who, image, 32, scene=scene).rgb.mean((0, 1))
              for scene in range(8) for image in (0, 1)}
    same = np.mean([np.abs(colour[0, s] - colour[1, s]) for s in range(8)])
    other = np.mean([np.abs(colour[0, s] - colour[1, (s + 1) % 8]) for s in range(8)])
    assert 2 * same < other


def test_harder_pictures_have_lower_quality():
    who = identity(0, 1)
    quality = [np.mean([render(who, i, 32, Difficulty().scaled(factor)).quality for i in range(12)])
               for factor in (0.0, 0.5, 1.0, 2.0)]
    assert quality == sorted(quality, reverse=True) and quality[0] > quality[-1] + 0.2
