"""One extraction at a time writes a file of old features, and none replaces features of something else unless it is told to."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from test_old_side_joints import CONFIG, PLAN, MeanColour
from toy import write_records

from engine import distributed
from old_model.extraction import PartialFile
from tools.get_feature import get_feature
from utils.errors import UserError
from utils.locks import hold
from utils.origin import save_array

SD = "f128_r18_softmax_class70"


@pytest.fixture
def command(tmp_path, monkeypatch):
    """get_feature in this process, with a stand-in for the model."""
    (tmp_path / "old").mkdir()
    torch.save({"weight": torch.arange(6.0)}, tmp_path / "old/model.pt")
    write_records(tmp_path / "data/train_part_70_class", [5, 4], size=8)
    monkeypatch.setattr("evaluation.models.load_model", lambda *_, **__: MeanColour())
    monkeypatch.setattr(distributed, "SECONDS_FOR_LOCK", 0.1)

    def call(*more: str) -> None:
        monkeypatch.setattr(sys, "argv", ["get_feature.py", str(CONFIG), "--SD", SD, "--batch", "4", "workers=0",
                                          "embedding_size=6", f"dataset={tmp_path / 'data'}", f"output={tmp_path / 'old'}",
                                          f"feature_save={tmp_path / 'save'}", *more])
        try:
            get_feature.main()
        finally:
            if torch.distributed.is_initialized():
                torch.distributed.destroy_process_group()
    return SimpleNamespace(call=call, folder=tmp_path, start=str(tmp_path / f"save/OPclass/{SD}"))


def content(command) -> list[bytes]:
    return [Path(f"{command.start}_{name}").read_bytes() for name in ("feature.npy", "label.npy", "feature.json")]


def other_model(command) -> None:
    torch.save({"weight": torch.zeros(6)}, command.folder / "old/model.pt")


def other_records(command) -> None:
    write_records(command.folder / "data/train_part_70_class", [2, 2], size=8)


def foreign(command) -> None:
    """Features that somebody else's tool has written: no description."""
    for kind in ("feature", "label"):
        Path(f"{command.start}_{kind}.json").unlink()


def only_the_label_is_foreign(command) -> None:
    Path(f"{command.start}_label.json").unlink()


def half_precision(command) -> None:
    """They would differ by about 1e-3."""
    for kind in ("feature", "label"):
        file = Path(f"{command.start}_{kind}.json")
        file.write_text(json.dumps(json.loads(file.read_text()) | {"fp16": True}))


@pytest.mark.parametrize("change", [other_model, other_records, foreign, only_the_label_is_foreign, half_precision])
def test_features_of_something_else_are_replaced_only_by_force(command, change):
    command.call()
    assert len(np.load(f"{command.start}_feature.npy")) == 9
    change(command)
    before = [file.read_bytes() for file in sorted(Path(command.start).parent.iterdir())]
    with pytest.raises(UserError, match=r"_(feature|label).npy holds the features of something else .*--force to replace it"):
        command.call()
    assert [file.read_bytes() for file in sorted(Path(command.start).parent.iterdir())] == before
    command.call("--force")
    assert len(np.load(f"{command.start}_feature.npy")) == (4 if change is other_records else 9)


def test_the_refusal_names_the_records_and_the_model(command):
    command.call()
    other_records(command)
    with pytest.raises(UserError, match="9 images of .*data/train_part_70_class.rec by .*old/model.pt; records: "):
        command.call()


def test_the_same_extraction_may_be_repeated(command, capsys):
    """The last line says where the result is."""
    command.call()
    before = content(command)
    command.call()
    assert content(command) == before and capsys.readouterr().out.splitlines()[-1] == f"wrote {command.start}_feature.npy"


def test_a_second_extraction_of_the_same_name_is_refused_while_the_first_runs(command):
    with hold(Path(f"{command.start}.lock"), "", 0):
        with pytest.raises(UserError, match=f"another extraction, .* still writes .*{SD}_feature.npy; wait until it ends"):
            command.call()
        with pytest.raises(UserError, match="still writes"):
            command.call("--force")
    with hold(Path(command.start).with_name("f128_r18_arc_class70.lock"), "", 0):
        command.call()                      # another name in the same folder


def test_a_paused_process_of_an_earlier_extraction_does_not_write_into_the_next(tmp_path, one_rank):
    """On a file system without locks: the first still has its arrays open when the second begins, and must not finish it."""
    names = tmp_path / "feature.npy", tmp_path / "label.npy"
    first = PartialFile(*names, PLAN, one_rank)
    second = PartialFile(*names, PLAN | {"model": "another"}, one_rank)
    first.write(0, slice(0, 3), np.ones((3, 6)), np.ones(3))
    first.mark()
    assert not second.features.any() and not second.labels.any() and not second.done.any()
    with pytest.raises(UserError, match="another extraction has replaced .*feature.npy.part; nothing was written"):
        first.finish({"model": "m"})
    second.finish({"model": "another"})
    assert not np.load(names[0]).any()
    with pytest.raises(UserError, match="another extraction has replaced"):
        first.finish({"model": "m"})        # the other one has ended meanwhile


def test_a_foreign_part_file_is_not_written_through(tmp_path, one_rank):
    """A hard link, as a backup makes it: a part is a new file."""
    names = tmp_path / "feature.npy", tmp_path / "label.npy"
    save_array(tmp_path / "feature.npy.part", np.ones((2, 2)), {})
    (tmp_path / "backup").hardlink_to(tmp_path / "feature.npy.part")
    before = (tmp_path / "backup").read_bytes()
    PartialFile(*names, PLAN, one_rank)
    assert (tmp_path / "backup").read_bytes() == before
