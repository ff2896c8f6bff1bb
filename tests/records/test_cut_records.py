"""A record file that is cut under a running training, unreadable files, and loaders that need no /dev/shm."""

import os
import signal
from pathlib import Path

import numpy as np
import pytest
from toy import write_ijb, write_records

from evaluation import embed
from evaluation.inputs import ModelInput
from evaluation.protocol import read_images
from records.faces import FaceRecords
from records.loader import train_loader
from records.recordio import RecordReader
from utils.errors import UserError


@pytest.mark.parametrize("size", [0, 100, -4])
@pytest.mark.parametrize("work", [
    lambda reader: reader.read(12), lambda reader: reader.first_labels(np.arange(1, 13)), lambda reader: reader.prefetch([12])])
def test_a_file_that_is_cut_is_refused_instead_of_a_bus_error(tmp_path, size, work):
    write_records(tmp_path / "train", [6, 6], size=64)
    reader = RecordReader(tmp_path / "train")
    work(reader)
    whole = reader.size
    os.truncate(tmp_path / "train.rec", size % whole)
    with pytest.raises(UserError, match=f"train.rec has {size % whole} bytes now and had {whole} when it was opened"):
        work(reader)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_training_on_a_file_that_is_cut_ends_with_a_sentence(tmp_path, workers):
    write_records(tmp_path / "train", [300, 300], size=32)
    loader = train_loader(FaceRecords(tmp_path / "train"), 8, 0, 1, 0, workers)
    with pytest.raises(UserError, match="train.rec has 4096 bytes now and had"):
        for number, _ in enumerate(loader):
            if number == 1:
                os.truncate(tmp_path / "train.rec", 4096)


def test_a_file_that_was_replaced_is_read_to_its_end(tmp_path):
    """By a rename, as our tools do it: the reader still has the former one."""
    write_records(tmp_path / "train", [6, 6], size=64)
    reader = RecordReader(tmp_path / "train")
    before = bytes(reader.read(12))
    write_records(tmp_path / "train", [1])
    assert bytes(reader.read(12)) == before


def test_a_loader_process_that_was_killed_is_a_sentence(tmp_path):
    write_records(tmp_path / "train", [300, 300], size=32)
    loader = train_loader(FaceRecords(tmp_path / "train"), 8, 0, 1, 0, 1)
    with pytest.raises(UserError, match="a loader process was killed .*lower config.workers"):
        for number, _ in enumerate(loader):
            if number == 1:
                pid, = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()[-1:]
                os.kill(int(pid), signal.SIGKILL)


@pytest.mark.parametrize("end", [".rec", ".idx"])
def test_an_unreadable_file_is_named(tmp_path, monkeypatch, end):
    write_records(tmp_path / "train", [2, 2])
    access = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: not str(path).endswith(end) and access(path, mode))     # root reads all
    with pytest.raises(UserError, match=f"train{end} cannot be read: no permission"):
        RecordReader(tmp_path / "train")


def shared_files() -> set[str]:
    """Files of /dev/shm that torch has made and this process or one of its children maps."""
    children = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()
    return {line.split()[-1] for process in ("self", *children) for line in Path(f"/proc/{process}/maps").read_text().splitlines()
            if "/torch_" in line}


def test_loaders_need_no_shared_memory_file(tmp_path):
    """/dev/shm has 64 MB in a container; two workers with batches of 128 images would need 48 MB, eight ranks 385 MB."""
    write_records(tmp_path / "train", [20, 20])
    before = shared_files()
    seen = 0
    for images, labels, _ in train_loader(FaceRecords(tmp_path / "train"), 8, 0, 1, 0, 2):
        assert shared_files() == before and len(labels) == len(images) == 8
        seen += 1
    assert seen == 5

    class Model:
        fingerprint, image_size, input, output, precision, dim = "a" * 64, 112, ModelInput(), None, "float32", 3

        def replicas(self):
            def embed_faces(faces):
                assert shared_files() == before
                return faces.numpy().mean((1, 2))[None].repeat(2, 0)
            return [embed_faces]
    write_ijb(tmp_path)
    images = read_images(str(tmp_path), "IJBC")
    rows = embed.embeddings(Model(), images, tmp_path / "kept", 4, 2)
    straight = embed.embeddings(Model(), images, tmp_path / "straight", 4, 0)
    assert np.array_equal(rows, straight) and rows.shape == (2, len(images), 3)
