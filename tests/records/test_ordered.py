"""Record files in any order and with any labels become parts, and files, in label order, numbered without a gap."""

import json
import os
import shutil
import sys

import numpy as np
import pytest
from toy import jpeg
from toy_labels import MIXED, SIX, runs, write

from records import ordered
from records.faces import FaceRecords
from records.ordered import in_label_order, write_ordered
from records.parts import refuse_other_parts
from records.recordio import RecordReader, RecordWriter, pack
from records.split import split
from tools.make_rec import make_rec
from tools.split_dataset import split_dataset_ms1mv3
from utils.errors import UserError
from utils.locks import hold_folder

FOLDED = [[7, 3, 900, 3, 7, 3][label] + label // 3 for label in MIXED]        # 3 4 7 8 900: gaps, two people of one number


def write_numbered(prefix, labels: list, header: list | None = None) -> None:
    """As toy_labels.write, but each image is its own, and each record has a second number that must stay."""
    with RecordWriter(prefix) as writer:
        if header:
            writer.write(0, pack(header, b"", 0, 0))
        for key, label in enumerate(labels, 1 if header else 0):
            writer.write(key, pack([label, 1000 + key], jpeg(0, key, 16), key, 0))


def contents(path) -> tuple[list, list, list]:
    """(labels, second numbers, images) of a record file, in record order."""
    faces = FaceRecords(path)
    headers = [faces.records.unpack(int(key))[0] for key in faces.keys]
    assert [header.id for header in headers] == faces.keys.tolist()
    return faces.labels().tolist(), [int(header.label[1]) for header in headers], [faces.jpeg(i) for i in range(len(faces))]


def by_hand(labels: list, header) -> tuple[list, list, list]:
    """The same of the sorted and renumbered file."""
    first, people = (1 if header else 0), sorted(set(labels))
    rows = [i for person in people for i, label in enumerate(labels) if label == person]
    return ([people.index(labels[i]) for i in rows], [1000 + first + i for i in rows],
            [jpeg(0, first + i, 16) for i in rows])


@pytest.mark.parametrize("labels, header", [
    (SIX, [49, 6]), (MIXED, None), (MIXED, [49, 49 + runs(MIXED)]), ([label + 1 for label in SIX], None), (FOLDED, None),
    (FOLDED, [49, 2]), ([10 * label for label in SIX], [49, 9]), ([5_000_000 + label for label in MIXED], None),
    ([0] * 47 + [9_000_000], None), (SIX, [49, 3e38])])
def test_a_file_in_any_order_is_sorted_and_numbered(tmp_path, labels, header):
    write_numbered(tmp_path / "train", labels, header)
    before = (tmp_path / "train.rec").read_bytes()
    write_ordered(tmp_path, tmp_path / "new", force=False)
    assert contents(tmp_path / "new") == by_hand(labels, header)
    people = sorted(set(labels))
    reader, n = RecordReader(tmp_path / "new"), len(labels)
    assert reader.unpack(0)[0].label.tolist() == [n + 1, n + 1 + len(people)]
    spans = [reader.unpack(key)[0].label.tolist() for key in range(n + 1, n + 1 + len(people))]
    ends = np.cumsum([labels.count(person) for person in people]).tolist()
    assert spans == [[1 + start, 1 + end] for start, end in zip([0, *ends], ends, strict=False)]
    assert (tmp_path / "new/property").read_text() == f"{len(people)},16,16\n"
    assert (tmp_path / "new/identities.txt").read_text() == "".join(f"{k}\t{person}\n" for k, person in enumerate(people))
    rows = [line.split("\t") for line in (tmp_path / "new/images.txt").read_text().splitlines()]
    assert rows[0] == ["row", "label", "person", "path"] and [int(row[0]) for row in rows[1:]] == list(range(n))
    assert [1000 + int(path.rpartition(":")[2]) for *_, path in rows[1:]] == by_hand(labels, header)[1]
    assert (tmp_path / "train.rec").read_bytes() == before


@pytest.mark.parametrize("labels, header", [
    (MIXED, None), (MIXED, [49, 49 + runs(MIXED)]), ([10 * label for label in MIXED], None), ([label + 1 for label in SIX], None),
    (SIX, [49, 30])])
def test_the_parts_of_a_file_in_any_order(tmp_path, capsys, labels, header):
    """As many images and people as of the sorted file: 30 % of 6 people are 2, of 8 images 2."""
    write_numbered(tmp_path / "train", labels, header)
    split(tmp_path / "train.rec", 0.3, tmp_path)
    every, numbers, images = by_hand(labels, header)
    place = [every[:i].count(label) for i, label in enumerate(every)]
    for name, members, shift in (("30_class", [i for i in range(48) if every[i] < 2], 0),
                                 ("70_class", [i for i in range(48) if every[i] >= 2], 2),
                                 ("30_data", [i for i in range(48) if place[i] < 2], 0),
                                 ("70_data", [i for i in range(48) if place[i] >= 2], 0)):
        part, labels_of_part = tmp_path / f"train_part_{name}", [every[i] - shift for i in members]
        assert contents(part) == (labels_of_part, [numbers[i] for i in members], [images[i] for i in members])
        assert FaceRecords(part).num_classes == len({every[i] for i in members})
    assert "note: in the parts of" in capsys.readouterr().err


def test_what_is_in_order_stays_as_it_is(tmp_path, capsys):
    write_numbered(tmp_path / "train", SIX, [49, 49 + 6])
    split(tmp_path / "train.rec", 0.3, tmp_path / "parts")
    assert capsys.readouterr().err == "" and in_label_order(tmp_path).changed == ""


@pytest.mark.parametrize("label", [-1, 0.5, float("nan"), 1e9])
def test_a_label_that_is_not_a_number_of_a_person_is_refused_before_anything_is_written(tmp_path, label):
    write_numbered(tmp_path / "train", [*SIX[:30], label, *SIX[31:]], [49, 6])
    for work in (lambda: write_ordered(tmp_path, tmp_path / "new", False), lambda: split(tmp_path / "train.rec", 0.3, tmp_path)):
        with pytest.raises(UserError, match="record 31 has label"):
            work()
    assert not list(tmp_path.rglob("train_part*")) and not (tmp_path / "new/train.rec").exists()


def test_names_of_people_are_kept(tmp_path):
    write(tmp_path / "train", [10, 10, 30, 30, 20, 20])
    (tmp_path / "identities.txt").write_text("30\tzoë\n10\tann\tof here\n7\tnobody\n")
    write_ordered(tmp_path, tmp_path / "new", False)
    assert (tmp_path / "new/identities.txt").read_text() == "0\tann\tof here\n1\t20\n2\tzoë\n"
    (tmp_path / "identities.txt").write_text("ann 10\n")
    with pytest.raises(UserError, match="identities.txt is not a list of label<TAB>name"):
        write_ordered(tmp_path, tmp_path / "other", False)


def test_an_existing_file_is_replaced_by_force_only_and_is_another_inode(tmp_path):
    """Also the source itself; who has the former file mapped, or linked, keeps it."""
    write_numbered(tmp_path / "train", MIXED)
    os.link(tmp_path / "train.rec", tmp_path / "kept.rec")
    os.link(tmp_path / "train.idx", tmp_path / "kept.idx")
    former = FaceRecords(tmp_path)
    with pytest.raises(UserError, match="train.rec exists; give another --out, or --force"):
        write_ordered(tmp_path, tmp_path, False)
    write_ordered(tmp_path, tmp_path, True)
    assert contents(tmp_path) == by_hand(MIXED, None)
    assert [former.label(i) for i in range(48)] == MIXED == FaceRecords(tmp_path / "kept").labels().tolist()


def test_two_writers_at_once_are_refused(tmp_path, monkeypatch):
    write(tmp_path / "train", SIX)
    monkeypatch.setattr(ordered, "SECONDS_FOR_LOCK", 0.05)
    (tmp_path / "out").mkdir()
    with hold_folder(tmp_path / "out", "", 0):
        for work in (lambda: write_ordered(tmp_path, tmp_path / "out", True),
                     lambda: split(tmp_path / "train.rec", 0.3, tmp_path / "out", True)):
            with pytest.raises(UserError, match="another process writes record files to .*out"):
                work()
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["lock"]


def test_a_split_is_repeated_without_force_and_another_one_is_not_replaced(tmp_path, capsys):
    write(tmp_path / "train", SIX)
    split(tmp_path / "train.rec", 0.3, tmp_path)
    inodes = {path: path.stat().st_ino for path in tmp_path.glob("*.rec")}
    (tmp_path / "train_part_70_data.idx").unlink()              # as a kill between two renames leaves it
    (tmp_path / "train_part_30_data.rec").unlink()
    split(tmp_path / "train.rec", 0.3, tmp_path)
    assert capsys.readouterr().out.count("was there already") == 2
    changed = {path.stem for path, inode in inodes.items() if path.stat().st_ino != inode}
    assert {"train_part_70_data"} <= changed <= {"train_part_70_data", "train_part_30_data"}
    # Another ratio of the same names, another source, a part of somebody else.
    for change in (lambda: None, lambda: write(tmp_path / "train", SIX[:40]),
                   lambda: [path.unlink() for path in tmp_path.glob("*.json")]):
        change()
        before = {path: path.read_bytes() for path in tmp_path.glob("train_part*")}
        with pytest.raises(UserError, match="exists and is not known to be a part of this train.rec with this ratio"):
            split(tmp_path / "train.rec", 0.304, tmp_path)
        assert before == {path: path.read_bytes() for path in tmp_path.glob("train_part*")}
    split(tmp_path / "train.rec", 0.304, tmp_path, force=True)
    assert len(FaceRecords(tmp_path / "train_part_30_class")) + len(FaceRecords(tmp_path / "train_part_70_class")) == 40


def killed_at(rename: int, *args) -> None:
    """A process that splits and is gone before its n-th rename."""
    pid = os.fork()
    if pid == 0:
        left = [None] * rename

        def replace(*names):
            if not left:
                os._exit(9)
            left.pop()
            return original(*names)
        original, os.replace = os.replace, replace
        try:
            split(*args)
        finally:
            os._exit(0)
    os.waitpid(pid, 0)


@pytest.mark.long
@pytest.mark.parametrize("force", [False, True])
def test_a_split_killed_between_any_two_renames_is_finished_by_the_same_command(tmp_path, force):
    """Four parts with four renames each: .json, the former .idx, .rec, .idx.  With --force over the parts of another set."""
    (tmp_path / "other").mkdir()
    write(tmp_path / "other/train", SIX[:40])
    write(tmp_path / "train", MIXED)
    split(tmp_path / "train.rec", 0.3, tmp_path / "whole")
    whole = {path.name: path.read_bytes() for path in (tmp_path / "whole").glob("train_part*.*")}
    for rename in (0, 1, 2, 3, 4, 6, 15):
        out = tmp_path / f"out {rename}"
        if force:
            shutil.copytree(tmp_path / "other", out)
            split(out / "train.rec", 0.3, out)
        killed_at(rename, tmp_path / "train.rec", 0.3, out, force)
        split(tmp_path / "train.rec", 0.3, out, force)
        about = {path.name: json.loads(path.read_text()) for path in out.glob("*.json")}
        assert {record["split_from"] for record in about.values()} == {"../train.rec"}
        assert {path.name: path.read_bytes() for path in out.glob("train_part*.*")} == whole
        refuse_other_parts(sorted(out.glob("train_part*.rec")))


def test_the_command_lines(tmp_path, monkeypatch, capsys):
    def run(module, *args):
        monkeypatch.setattr(sys, "argv", ["x.py", *map(str, args)])
        module.main()
    write_numbered(tmp_path / "train", MIXED)
    run(make_rec, "--from-rec", tmp_path / "train.rec", "--out", tmp_path / "new")
    assert contents(tmp_path / "new") == by_hand(MIXED, None)
    assert "48 images of 6 identities; the images are sorted by label" in capsys.readouterr().out
    with pytest.raises(UserError, match="exists"):
        run(make_rec, "--from-rec", tmp_path / "train.rec", "--out", tmp_path / "new")
    run(make_rec, "--from-rec", tmp_path / "train.rec", "--out", tmp_path / "new", "--force")
    run(split_dataset_ms1mv3, "--data", tmp_path)
    for path in tmp_path.glob("train_part*.json"):
        path.unlink()
    with pytest.raises(UserError, match="exists and is not known"):
        run(split_dataset_ms1mv3, "--data", tmp_path)
    run(split_dataset_ms1mv3, "--data", tmp_path, "--force")
    index = (tmp_path / "train.idx").read_text()
    (tmp_path / "train.idx").unlink()
    with pytest.raises(UserError, match=r"no file .*train.idx; write it again .* --index .*train.rec"):
        run(make_rec, "--from-rec", tmp_path / "train.rec", "--out", tmp_path / "new", "--force")
    run(make_rec, "--index", tmp_path / "train.rec")
    assert (tmp_path / "train.idx").read_text() == index
    for wrong in (["--from-rec", tmp_path / "train.rec"], [], [tmp_path, "--from-rec", tmp_path]):
        with pytest.raises(SystemExit) as end:
            run(make_rec, *wrong)
        assert end.value.code == 2
