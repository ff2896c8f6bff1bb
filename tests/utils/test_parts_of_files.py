"""Parts of killed writers are removed by the next writer; those of living writers, and other people's files, are not."""

import os
import signal
import subprocess
import sys

import pytest
from toy import write_ijb, write_records

from evaluation import embed
from evaluation.inputs import ModelInput
from evaluation.protocol import read_images
from records.recordio import RecordReader, RecordWriter
from utils.errors import UserError
from utils.files import whole_file, write_text
from utils.parts import new_part, remove_left_parts
from utils.paths import ROOT

WRITER = """
import sys, time
from pathlib import Path
from utils.parts import new_part

with new_part(Path(sys.argv[1]), folder=sys.argv[2] == "folder") as part:
    (part / "weights" if part.is_dir() else part).write_text("half")
    print(part.name, flush=True)
    time.sleep(20)
"""


def writer(path, kind: str = "file") -> tuple[subprocess.Popen, str]:
    """A process that writes ``path``, and the name of its part."""
    process = subprocess.Popen([sys.executable, "-c", WRITER, path, kind], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    return process, process.stdout.readline().strip()


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_a_part_is_removed_when_its_writer_has_been_killed_and_not_before(tmp_path, kind):
    theirs = tmp_path / "model.onnx.part"
    theirs.write_text("a browser's unfinished download")
    process, name = writer(tmp_path / "model.onnx", kind)
    try:
        write_text(tmp_path / "model.onnx", "whole")
        assert (tmp_path / name).exists() and (tmp_path / "model.onnx").read_text() == "whole"
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert (tmp_path / name).exists()
        write_text(tmp_path / "another.onnx", "")       # another name: perhaps on its way on another machine
        assert (tmp_path / name).exists()
        write_text(tmp_path / "model.onnx", "again")
        assert sorted(p.name for p in tmp_path.iterdir()) == ["another.onnx", "model.onnx", "model.onnx.part"]
    finally:
        process.kill()
        process.wait()


def test_two_writers_of_one_array_write_two_whole_files(tmp_path):
    with whole_file(tmp_path / "a") as first:
        with whole_file(tmp_path / "a") as second:
            first.write_text("one" * 1000), second.write_text("two")
        assert (tmp_path / "a").read_text() == "two" and first.exists()
    assert (tmp_path / "a").read_text() == "one" * 1000 and os.listdir(tmp_path) == ["a"]


def test_brackets_in_a_name_are_not_a_pattern(tmp_path):
    (tmp_path / "modelx.pt.0badc0de.part").touch()
    write_text(tmp_path / "model[xyz].pt", "")
    assert (tmp_path / "modelx.pt.0badc0de.part").exists()
    remove_left_parts(tmp_path)
    assert os.listdir(tmp_path) == ["model[xyz].pt"]


def test_a_new_file_has_the_rights_that_any_new_file_has(tmp_path):
    (tmp_path / "plain").touch()
    write_text(tmp_path / "ours", "")
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_one_process_at_a_time_writes_a_record_file(tmp_path):
    """The .rec of one with the .idx of the other would be read without an error if their records have the same lengths."""
    with RecordWriter(tmp_path / "train") as first:
        first.write(0, b"first")
        with pytest.raises(UserError, match="another process is writing .*train.rec; wait"), RecordWriter(tmp_path / "train"):
            pass
        with RecordWriter(tmp_path / "other") as other:
            other.write(0, b"other")
    assert bytes(RecordReader(tmp_path / "train").read(0)) == b"first"
    assert sorted(os.listdir(tmp_path)) == ["other.idx", "other.rec", "train.idx", "train.rec"]


def test_a_killed_writer_of_records_does_not_stop_the_next(tmp_path):
    for name in ("train.rec.0badc0de.part", "train.idx.0badc0de.part"):
        (tmp_path / name).write_text("half")
    write_records(tmp_path / "train", [2, 2])
    assert sorted(os.listdir(tmp_path)) == ["train.idx", "train.rec"]


def test_embeddings_that_a_killed_evaluation_left_are_removed_by_the_next_of_any_model(tmp_path, monkeypatch):
    write_ijb(tmp_path)
    left = tmp_path / "kept/b_of_another_model.npy.0badc0de.part"
    left.parent.mkdir()
    left.touch()

    class Model:
        fingerprint, image_size, input, output, precision, dim = "a" * 64, 112, ModelInput(), None, "float32", 3

        def replicas(self):
            return [lambda faces: faces.numpy().mean((1, 2))[None].repeat(2, 0)]
    with new_part(tmp_path / "kept/c.npy") as alive:
        embed.embeddings(Model(), read_images(str(tmp_path), "IJBC"), tmp_path / "kept", 100, 0)
        assert alive.exists() and not left.exists()
