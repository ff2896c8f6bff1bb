"""Splitting a training set and making one from a folder: the files are as the documentation says."""

import subprocess
from pathlib import Path

import cv2
import numpy as np
import pytest
from processes import run_script
from toy import jpeg, write_records

from records.faces import FaceRecords
from records.recordio import RecordReader, RecordWriter, pack
from utils.paths import ROOT

COUNTS = [4, 1, 9, 2, 7, 3, 5, 6, 8, 1]


def run(script: str, *args) -> subprocess.CompletedProcess:
    return run_script(ROOT / "tools" / script, *args)


def split(*args) -> subprocess.CompletedProcess:
    return run("split_dataset/split_dataset_ms1mv3.py", *args)


@pytest.mark.parametrize("ratio, percent, identities, images", [
    (0.3, 30, 3, [1, 1, 3, 1, 2, 1, 2, 2, 2, 1]), (0.4, 40, 4, [2, 1, 4, 1, 3, 1, 2, 2, 3, 1])])
def test_split(tmp_path, ratio, percent, identities, images):
    labels = write_records(tmp_path / "train", COUNTS)
    assert split("--data", tmp_path, "--ratio", ratio).returncode == 0
    whole = FaceRecords(tmp_path)
    old = [i for i, label in enumerate(labels) if label < identities]
    place = [labels[:i].count(label) for i, label in enumerate(labels)]
    first = [i for i, label in enumerate(labels) if place[i] < images[label]]
    rest = [i for i, label in enumerate(labels) if place[i] >= images[label] or COUNTS[label] == 1]
    for name, members, shift in ((f"{percent}_class", old, 0), (f"{percent}_data", first, 0),
                                 (f"{100 - percent}_data", rest, 0),
                                 (f"{100 - percent}_class", [i for i in range(46) if i not in old], identities)):
        part = FaceRecords(tmp_path / f"train_part_{name}")
        assert part.labels().tolist() == [labels[i] - shift for i in members]
        assert [part.jpeg(i) for i in range(len(part))] == [whole.jpeg(i) for i in members]
        assert part.num_classes == len({labels[i] for i in members})
        assert [RecordReader(part.path).unpack(int(k))[0].id for k in part.keys] == list(range(1, len(members) + 1))


def test_identity_records_are_not_images(tmp_path, faces):
    assert split("--data", faces / "ms1m-retinaface-t1", "--out", tmp_path).returncode == 0
    names = ("30_class", "70_class", "30_data", "70_data")
    parts = {name: FaceRecords(tmp_path / f"train_part_{name}") for name in names}
    sizes = {name: len(part) for name, part in parts.items()}
    assert sizes["30_class"] + sizes["70_class"] == 6704 and parts["30_class"].num_classes == 468
    assert sizes["30_data"] + sizes["70_data"] == 6704 + 200       # 200 people have one image, which is in both


def test_a_large_ratio_leaves_every_identity_an_image_in_both_parts(tmp_path):
    write_records(tmp_path / "train", [2, 3, 2, 2, 2])
    assert split("--data", tmp_path, "--ratio", 0.8).returncode == 0
    for part, counts in ((80, [1, 2, 1, 1, 1]), (20, [1, 1, 1, 1, 1])):
        assert np.bincount(FaceRecords(tmp_path / f"train_part_{part}_data").labels()).tolist() == counts


def test_files_without_header(tmp_path):
    with RecordWriter(tmp_path / "train") as writer:
        for key, label in enumerate([0, 0, 1, 1, 2, 2, 3, 3]):
            writer.write(key, pack(label, jpeg(label, key, 16), key, 0))
    assert split("--data", tmp_path).returncode == 0
    assert FaceRecords(tmp_path / "train_part_30_class").labels().tolist() == [0, 0]


@pytest.mark.parametrize("args, words", [(["--ratio", "1.5"], "between 0 and 1"), (["--ratio", "0.5"], "the same name"),
                                        (["--ratio", "0.01"], "has no image")])
def test_bad_ratios(tmp_path, args, words):
    write_records(tmp_path / "train", COUNTS)
    done = split("--data", tmp_path, *args)
    assert done.returncode == 1 and words in done.stderr and len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("counts, warned", [([9, 9, 9, *[2] * 7], True), ([*[2] * 7, 9, 9, 9], True), (COUNTS, False),
                                            ([3] * 10, False)])
def test_images_far_from_the_ratio(tmp_path, counts, warned):
    """3 of 10 people: with 27 of 41 or 6 of 41 images the parts differ in more than their people; 14 of 46 are 30 %."""
    write_records(tmp_path / "train", counts)
    done = split("--data", tmp_path)
    assert done.returncode == 0 and ("--shuffle SEED" in done.stderr) == warned
    assert "images of one person" not in done.stderr
    if warned:
        assert f"has {100 * sum(counts[:3]) / 41:.0f} % of the images, but 30 % of the people" in done.stderr


def test_a_part_of_one_person(tmp_path):
    write_records(tmp_path / "train", [4, 4, 4])
    done = split("--data", tmp_path)
    assert done.returncode == 0 and "train_part_30_class has images of one person, and a training needs two people" in done.stderr


def people(folder: Path, size: int = 16) -> None:
    draw = np.random.default_rng(0)
    for name, count in (("bob", 2), ("ann", 3), ("nobody", 0)):
        (folder / name / "deep").mkdir(parents=True)
        for i in range(count):
            image = draw.integers(0, 256, (size, size, 3), np.uint8)
            cv2.imwrite(str(folder / name / ("deep" if i else "") / f"{i}.{'png' if i == 2 else 'jpg'}"), image)


def test_folder_to_records(tmp_path):
    people(tmp_path / "in")
    done = run("make_rec/make_rec.py", tmp_path / "in", "--out", tmp_path / "out", "--size", 16, "--albums")
    assert done.returncode == 0 and "nobody" in done.stderr
    made = FaceRecords(tmp_path / "out")
    assert (len(made), made.num_classes, made.labels().tolist()) == (5, 2, [0, 0, 0, 1, 1])
    assert made.jpeg(0) == (tmp_path / "in/ann/0.jpg").read_bytes()
    assert made.jpeg(2)[:3] == b"\xff\xd8\xff"              # the png became a JPEG
    assert (tmp_path / "out/identities.txt").read_text() == "0\tann\n1\tbob\n"
    assert (tmp_path / "out/property").read_text() == "2,16,16\n"
    reader = RecordReader(tmp_path / "out/train")
    assert [reader.unpack(k)[0].label.tolist() for k in (0, 6, 7)] == [[6, 8], [1, 4], [4, 6]]


def test_folder_mistakes(tmp_path):
    people(tmp_path / "in", size=24)
    for args, words in (([tmp_path / "in"], "24x24 pixels"), ([tmp_path / "none"], "no folder"),
                        ([tmp_path / "in/bob/deep"], "no folders with images")):
        done = run("make_rec/make_rec.py", *args, "--out", tmp_path / "out", "--size", 16)
        assert done.returncode == 1 and words in done.stderr and not (tmp_path / "out/train.rec").exists()
    resize = ["make_rec/make_rec.py", tmp_path / "in", "--out", tmp_path / "out", "--size", 16, "--resize", "--albums", "--force"]
    assert run(*resize).returncode == 0
    assert FaceRecords(tmp_path / "out").image_size == 16
    for shape in ((24, 30, 3), (8, 8, 3)):                  # resizing would distort or blow up
        cv2.imwrite(str(tmp_path / "in/bob/y.png"), np.zeros(shape, np.uint8))
        done = run(*resize)
        assert done.returncode == 1 and "y.png" in done.stderr and f"{shape[1]}x{shape[0]} pixels" in done.stderr
        assert len(FaceRecords(tmp_path / "out")) == 5
    (tmp_path / "in/bob/y.png").unlink()
    (tmp_path / "in/bob/x.jpg").write_bytes(b"no image")
    done = run(*resize)
    assert done.returncode == 1 and "x.jpg: is not an image" in done.stderr and len(FaceRecords(tmp_path / "out")) == 5
