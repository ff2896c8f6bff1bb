"""Files written under another name and renamed: a full disk, an error in between, and what the checksums see."""

import errno
import hashlib
import json
import os
import re
import resource
import signal

import numpy as np
import pytest
from toy import write_records

from evaluation.embed import embeddings
from evaluation.inputs import ModelInput
from old_model.extraction import PartialFile
from records.recordio import RecordReader
from tools.compare.pictures import save, start
from tools.ijbc_eval.report import save_result
from utils import files
from utils.errors import UserError
from utils.files import checksums, damage, new_array, write_text, written_beside
from utils.origin import load_array, save_array
from utils.parts import TOKEN

PLAN = {"images": 5000, "dim": 100, "batch_size": 100}


@pytest.fixture
def small_disk():
    """No file may grow beyond 100 kB: the kernel refuses to write more, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, handler)


class Large:
    """A model whose embeddings of 24 images take 192 kB."""

    fingerprint, image_size, dim, precision, input, output = "a" * 64, 16, 1000, "float32", ModelInput(), ""

    def replicas(self) -> list:
        return [lambda faces: np.ones((2, len(faces), 1000), np.float32)]


def figure():
    drawn, axes = start("", "", "")
    axes.imshow(np.random.default_rng(0).random((400, 400)), aspect="auto")
    return drawn


# kind -> (file that must stay as it was, what writes it).
WRITERS = {
    "text": ("compare.json", lambda file, _: write_text(file, "x" * 200_000)),
    "array": ("f_feature.npy", lambda file, _: save_array(file, np.zeros(50_000, np.float32), {})),
    "features": ("f_feature.npy", lambda file, ranks: PartialFile(file, file.with_name("f_label.npy"), PLAN, ranks)),
    "result": ("r.npz", lambda file, _: save_result(file, {}, {"embs": np.zeros(50_000, np.float32)})),
    "figure": ("scatter.png", lambda file, _: save(figure(), file)),
    "records": ("train.rec", lambda file, _: write_records(file.with_suffix(""), [400], size=32)),
}


@pytest.mark.parametrize("kind", WRITERS)
def test_a_full_disk_is_a_sentence_and_the_former_file_stays(kind, tmp_path, one_rank, small_disk):
    name, write = WRITERS[kind]
    (tmp_path / name).write_text("former")
    with pytest.raises(UserError, match=rf"cannot write .*{name}.* free there\); make room or choose another folder"):
        write(tmp_path / name, one_rank)
    assert (tmp_path / name).read_text() == "former"
    assert [file.name for file in tmp_path.iterdir()] == [name]


def test_a_full_disk_while_embedding(tmp_path, small_disk):
    from toy import write_ijb

    from evaluation.protocol import read_images

    write_ijb(tmp_path, subjects=4)
    with pytest.raises(UserError, match="cannot write .*/kept/a{16}_.*npy"):
        embeddings(Large(), read_images(tmp_path, "IJBC"), tmp_path / "kept", 8, 0)
    assert list((tmp_path / "kept").iterdir()) == []


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot write .*file/sub/a.txt"):
        write_text(tmp_path / "file/sub/a.txt", "")


def test_an_error_in_between_leaves_the_former_file(tmp_path):
    write_text(tmp_path / "a.txt", "former")
    with pytest.raises(ZeroDivisionError), written_beside(tmp_path / "a.txt") as part:
        part.write_text("half")
        raise ZeroDivisionError
    assert [file.read_text() for file in tmp_path.iterdir()] == ["former"]


def test_bytes_reach_the_disk_before_the_name(tmp_path, monkeypatch):
    order = []
    monkeypatch.setattr(files.os, "fsync", lambda number: order.append(os.readlink(f"/proc/self/fd/{number}").split("/")[-1]))
    replace = os.replace
    monkeypatch.setattr(files.os, "replace", lambda part, path: (order.append("renamed"), replace(part, path)))
    write_text(tmp_path / "a.txt", "")
    order[0] = re.sub(TOKEN, "", order[0])
    assert order == ["a.txt..part", "renamed", tmp_path.name]
    order.clear()
    write_records(tmp_path / "train", [3])
    assert [re.sub(TOKEN, "", name) for name in order[:2]] == ["train.rec..part", "train.idx..part"]
    assert len(RecordReader(tmp_path / "train")) == 4


def test_a_file_system_that_cannot_sync_a_folder(tmp_path, monkeypatch):
    whole = os.fsync

    def fsync(number):
        if os.path.isdir(f"/proc/self/fd/{number}"):
            raise OSError(errno.EINVAL, "Invalid argument")
        whole(number)
    monkeypatch.setattr(files.os, "fsync", fsync)
    write_text(tmp_path / "a.txt", "there")
    write_records(tmp_path / "train", [3])
    assert (tmp_path / "a.txt").read_text() == "there" and len(RecordReader(tmp_path / "train")) == 4


def test_a_link_stays_a_link(tmp_path):
    (tmp_path / "large").mkdir()
    (tmp_path / "a.txt").symlink_to(tmp_path / "large/a.txt")
    write_text(tmp_path / "a.txt", "there")
    assert (tmp_path / "a.txt").is_symlink() and (tmp_path / "large/a.txt").read_text() == "there"


def test_other_errors_than_those_of_a_disk_stay_as_they_are(tmp_path):
    with pytest.raises(OSError, match="Too many open files"), written_beside(tmp_path / "a.txt"):
        raise OSError(errno.EMFILE, "Too many open files")


def test_a_mapped_file_has_its_room_on_the_disk(tmp_path):
    array = new_array(tmp_path / "a.npy", np.float32, (1000, 1000))
    assert (tmp_path / "a.npy").stat().st_blocks * 512 >= array.nbytes and not array.any()


def test_checksums(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "BLOCK", 16)
    for size in (0, 15, 16 * 256, 16 * 256 + 1, 100_000):
        file = tmp_path / str(size)
        data = np.random.default_rng(size).bytes(size)
        file.write_bytes(data)
        kept = checksums(file)
        assert (kept["bytes"], kept["sha256"]) == (size, hashlib.sha256(data).hexdigest())
        assert damage(file, kept, True) is None and damage(file, {}, True) is None
        for at in range(0, size, max(size // 40, 1)):                   # a hole of a 256th of the file, or a byte of a small one
            hole = max(size // 256 + 16, 1) if size > 16 * 256 else 1
            file.write_bytes(data[:at] + bytes(byte ^ 1 for byte in data[at:at + hole]) + data[at + hole:])
            assert damage(file, kept, False) == "its checksum differs", (size, at)
        file.write_bytes(data + b"x")
        assert damage(file, kept, False) == f"it has {size + 1} bytes, expected {size}"
    file.write_bytes(data[:17] + bytes([data[17] ^ 1]) + data[18:])     # between two blocks: only the whole checksum sees it
    assert damage(file, kept, False) is None and damage(file, kept, True) == "its checksum differs"


def test_a_foreign_array_under_the_name_is_refused(tmp_path):
    file = tmp_path / "f_feature.npy"
    save_array(file, np.zeros((20, 4), np.float32), {"model": "m"})
    assert load_array(file, "x", whole=True).shape == (20, 4)
    np.save(file, np.ones((20, 4), np.float32))
    with pytest.raises(UserError, match="f_feature.npy is corrupt, or not the file that f_feature.json .*make it again with: x"):
        load_array(file, "x")
    (tmp_path / "f_feature.json").write_text("[]")
    with pytest.raises(UserError, match="f_feature.json is not a description of f_feature.npy"):
        load_array(file, "x")
    (tmp_path / "f_feature.json").write_text(json.dumps({"model": "m"}))           # of an earlier version: no checksums
    assert load_array(file, "x").all()
