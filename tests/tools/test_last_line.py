"""The last line of a tool that writes something is the absolute path of its result."""

import sys
from pathlib import Path

from toy import jpeg, write_records

from tools.make_rec import make_rec
from tools.split_dataset import split_dataset_ms1mv3
from utils.paths import ROOT

# Write nothing, a vector store, or a training, whose last line names model.pt.
OTHERS = {"bin_accuracy", "check", "gallery", "setting_rows", "regression"}


def test_every_tool_has_such_a_line():
    scripts = {path for path in ROOT.glob("tools/*/*.py") if 'if __name__ == "__main__":' in path.read_text()}
    assert len(scripts) > 10
    assert {path.stem for path in scripts if "print_written(" not in path.read_text()} == OTHERS


def test_record_files_by_a_relative_name(tmp_path, monkeypatch, capsys):
    for person in range(10):
        for number in range(3):
            file = tmp_path / f"people/{person}/{number}.jpg"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(jpeg(person, number, 16))
    monkeypatch.chdir(tmp_path)
    write_records(tmp_path / "set/train", [3] * 10)
    for tool, arguments, result in ((make_rec, ["people", "--out", "mine", "--size", "16"], "mine/train.rec"),
                                    (split_dataset_ms1mv3, ["--data", "set", "--out", "parts"], "parts")):
        monkeypatch.setattr(sys, "argv", ["tool.py", *arguments])
        tool.main()
        assert capsys.readouterr().out.splitlines()[-1] == f"wrote {Path(tmp_path.resolve(), result)}"


def test_an_index_that_was_made_again(tmp_path, monkeypatch, capsys):
    write_records(tmp_path / "train", [3] * 4)
    (tmp_path / "train.idx").unlink()
    monkeypatch.setattr(sys, "argv", ["make_rec.py", "--index", str(tmp_path / "train.rec")])
    make_rec.main()
    assert capsys.readouterr().out.splitlines()[-1] == f"wrote {tmp_path.resolve()}/train.idx"
