"""Parts of a training set belong to the train.rec that is there now, and the two halves of a split to each other."""

import json
import re
import shutil

import numpy as np
import pytest
from toy import write_records
from toy_labels import MIXED, SIX, write

from records.parts import refuse_other_parts, source_of
from records.split import split
from utils.errors import UserError

NAMES = [f"train_part_{percent}_{kind}" for kind in ("class", "data") for percent in (30, 70)]
STALE = "split from another train.rec"


def make(folder, labels=SIX, ratio: float = 0.3):
    """A training set and its parts; the folder."""
    folder.mkdir(exist_ok=True)
    write(folder / "train", labels, [len(labels) + 1, max(labels) + 1])
    split(folder / "train.rec", ratio, folder)
    return folder


def check(folder, names=NAMES) -> None:
    refuse_other_parts([folder / f"{name}.rec" for name in names])


def copy(source, target, *names: str, ends=(".rec", ".idx", ".json")) -> None:
    for name in names:
        for end in ends:
            shutil.copy(source / f"{name}{end}", target / f"{name}{end}")


def test_what_a_part_says_of_its_source(tmp_path):
    make(tmp_path)
    check(tmp_path)
    about = source_of(tmp_path / "train_part_70_class.rec")
    assert {key: about[key] for key in ("split_from", "source_images", "ratio", "images", "classes")} == {
        "split_from": "train.rec", "source_images": 48, "ratio": 0.3, "images": 32, "classes": 4}
    write(tmp_path / "other", SIX)
    refuse_other_parts([tmp_path / "train.rec", tmp_path / "other.rec"])       # not parts: nothing is asked of them


@pytest.mark.parametrize("labels, now", [
    (SIX[:40], 40), ([*SIX, 5, 5], 50), (MIXED, 48), ([label + 1 for label in SIX], 48), (SIX[::-1], 48)])
def test_parts_of_another_train_rec(tmp_path, labels, now):
    """Fewer or more images; the same number in another order or with other labels, in a file of the same size."""
    size = (make(tmp_path) / "train.rec").stat().st_size
    write(tmp_path / "train", labels, [len(labels) + 1, 7])
    assert now != 48 or (tmp_path / "train.rec").stat().st_size == size
    with pytest.raises(UserError, match=rf"70_data in .* were {STALE} \(48 images then, {now} now\); split again with: python .*"
                                        rf"--data {re.escape(str(tmp_path))} --force".replace("70_data", "70_data.rec")):
        check(tmp_path)
    with pytest.raises(UserError, match=f"^train_part_30_data.rec in .* was {STALE}"):
        check(tmp_path, ["train_part_30_data"])
    split(tmp_path / "train.rec", 0.3, tmp_path, force=True)
    check(tmp_path)


def test_one_pixel_of_a_train_rec_of_the_same_size(tmp_path):
    data = bytearray((make(tmp_path) / "train.rec").read_bytes())
    data[-40] ^= 1
    (tmp_path / "train.rec").write_bytes(data)
    with pytest.raises(UserError, match=STALE):
        check(tmp_path, ["train_part_70_class"])


def test_parts_of_two_splits(tmp_path):
    """One half of another set, or of another ratio, with and without a train.rec to compare with."""
    one, other, ratio = make(tmp_path / "one"), make(tmp_path / "other", MIXED[:44]), make(tmp_path / "ratio", SIX, 0.304)
    ratios = r"of two splits .48 images, fingerprint (\w{12}), ratio 0.3; 48 images, fingerprint \1, ratio 0.304.: an"
    for source, words in ((other, rf"^train_part_70_class.rec in .* was {STALE} .44 images then, 48 now"), (ratio, ratios)):
        mixed = shutil.copytree(one, tmp_path / f"mixed {source.name}")
        copy(source, mixed, "train_part_70_class")
        with pytest.raises(UserError, match=words):
            check(mixed)
        (mixed / "train.rec").unlink()
        with pytest.raises(UserError, match="train_part_30_class.rec and train_part_70_class.rec in .* are of two splits"):
            check(mixed, ["train_part_30_class"])
        check(mixed, ["train_part_30_data", "train_part_70_data"])
    # Without its .json: the part is not the file that the .json there describes.
    copy(other, one, "train_part_70_data", ends=(".rec", ".idx"))
    with pytest.raises(UserError, match="70_data.rec is not the file that train_part_70_data.json describes"):
        check(one)


def test_two_ratios_side_by_side(tmp_path):
    make(tmp_path)
    split(tmp_path / "train.rec", 0.2, tmp_path)
    check(tmp_path, [*NAMES, *(f"train_part_{percent}_{kind}" for percent in (20, 80) for kind in ("class", "data"))])


@pytest.mark.parametrize("text, words", [
    ('{"split_from": "train.rec", "sou', "is not a description of train_part_30_class.rec"), ("", "is not a description"),
    ("[1]", "is not a description"), ('{"split_from": "train.rec"}', "does not describe"),
    ('{"split_from": "train.rec", "source": 3, "source_images": 48, "ratio": 0.3, "records": "a"}', "does not describe"),
    ('{"split_from": "train.rec", "source": "a", "source_images": 48, "ratio": 0.3, "records": "a"}', "is not the file that")])
def test_a_json_that_was_half_written_or_edited(tmp_path, text, words):
    (make(tmp_path) / "train_part_30_class.json").write_text(text)
    with pytest.raises(UserError, match=words):
        check(tmp_path)


def test_an_edited_ratio_or_source(tmp_path):
    file = make(tmp_path) / "train_part_30_class.json"
    about = json.loads(file.read_text())
    for change, words in (({"ratio": 0.31}, "of two splits"), ({"source": "0" * 64}, STALE)):
        file.write_text(json.dumps(about | change))
        with pytest.raises(UserError, match=words):
            check(tmp_path)


def test_parts_without_json_are_accepted(tmp_path):
    """Of an older version, or of the public script."""
    for path in make(tmp_path).glob("*.json"):
        path.unlink()
    write(tmp_path / "train", MIXED)
    check(tmp_path)
    (tmp_path / "train_part_30_class.json").write_text('{"made": "elsewhere"}')
    check(tmp_path)


def test_parts_in_a_folder_of_their_own_follow_their_train_rec(tmp_path):
    """Moved together, through a link to a folder, and gone: then there is nothing to compare with."""
    write_records(tmp_path / "a/set/train", [8] * 6)
    split(tmp_path / "a/set/train.rec", 0.2, tmp_path / "a/parts")
    (tmp_path / "a").rename(tmp_path / "b")
    (tmp_path / "link").symlink_to(tmp_path / "b/parts")
    names = [f"train_part_{percent}_class" for percent in (20, 80)]
    for folder in (tmp_path / "b/parts", tmp_path / "link"):
        check(folder, names)
    kept = {end: (tmp_path / f"b/set/train{end}").read_bytes() for end in (".rec", ".idx")}
    write(tmp_path / "b/set/train", MIXED)
    for folder in (tmp_path / "b/parts", tmp_path / "link"):
        with pytest.raises(UserError, match=rf"--data {tmp_path}/b/set --ratio 0.2 --out {folder} --force"):
            check(folder, names)
    for end, data in kept.items():
        (tmp_path / f"b/set/train{end}").write_bytes(data)
    check(tmp_path / "b/parts", names)
    (tmp_path / "b/set/train.rec").unlink()
    check(tmp_path / "b/parts", names)
    assert np.all([source_of(tmp_path / f"b/parts/{name}.rec")["split_from"] == "../set/train.rec" for name in names])
