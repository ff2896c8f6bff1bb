"""The check before a training: one fault at a time, and exactly the row that it belongs to is wrong."""

import json
import shutil
from argparse import Namespace
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import nn
from toy import jpeg, write_records

from backbones.weights import fingerprint
from engine import cost
from records.faces import FaceRecords
from records.facts import Facts
from records.recordio import RecordWriter, pack
from records.split import split
from tools.check import check, record_rows, resource_rows
from tools.check.report import Report
from utils.config import load_config
from utils.errors import UserError
from utils.origin import save_array

ROOT = Path(__file__).resolve().parents[2]
SD, OLD = "f128_r18_softmax_class70", "configs/f128_r18_softmax_class30.py"
KINDS = {"feature": "old_feature", "credible_ratio_90_feature": "credible", "avg_feature": "prototypes"}


@pytest.fixture(scope="module")
def check_folder(check_folder, tmp_path_factory) -> Path:
    """The folder of conftest.py with an old model of three numbers: every check reads it several times, for its fingerprint."""
    folder = shutil.copytree(check_folder, tmp_path_factory.mktemp("small") / "check")
    model = {"weight": torch.arange(3.0)}
    torch.save(model, folder / "old/model.pt")
    for file in (folder / "save/OPclass").glob("*.json"):
        file.write_text(json.dumps(json.loads(file.read_text()) | {"model": fingerprint(model)}))
    return folder


@pytest.fixture
def look(monkeypatch):
    """Checks a method's config on a folder; gives the report.  What takes long, and has its own test, gives its arguments."""
    monkeypatch.setattr(check, "look_at_gpu", lambda cfg, data, ranks, head, method: (
        f"{ranks} of {dist.get_world_size()} {head.__name__} {type(method).__name__}", "ok"))
    monkeypatch.setattr(check, "look_at_disk", lambda cfg, data, ranks, method: (
        f"{ranks} {type(method).__name__} {data.classes}", "ok"))
    monkeypatch.setattr(record_rows, "look_at_images", lambda faces, every: (f"{len(faces)} {every}", "ok"))
    monkeypatch.setattr(check, "new_backbone", lambda cfg, device: None)

    def call(folder: Path, method: str, *settings: str, ranks: int = 2, every: bool = False) -> Report:
        where = [f"dataset={folder / 'data'}", f"feature_save={folder / 'save'}", f"old_model={folder / 'old/model.pt'}",
                 f"output={folder / 'out'}", "network=mbf", "image_size=16", "batch_size=4", "val_targets=['lfw']"]
        name = f"BCT_Methods/{method}/configs/OPclass_ms1mv3_r18_to_r50_{method}_softmax_to_arc_f128.py"
        config = str(ROOT / (OLD if method == "old" else name))
        return check.check(Namespace(config=config, overrides=[*where, *settings], ranks=ranks, all=every, script=None))
    return call


def wrong(report: Report) -> dict[str, str]:
    """{what: verdict} of the rows that end the check."""
    assert report.problems() == sum(verdict in ("missing", "wrong") for _, _, verdict in report.rows)
    return {what: verdict for what, _, verdict in report.rows if verdict in ("missing", "wrong")}


# --- what the old model left -------------------------------------------------------------------------------

READ_BY = {"MixBCT": {"old_feature", "credible"}, "L2": {"old_feature"}, "BCT": {"prototypes"}}


@pytest.mark.parametrize("method", READ_BY)
def test_a_missing_array_is_missing_for_the_methods_that_read_it_only(look, check_copy, method):
    for kind, name in KINDS.items():
        file = check_copy / f"save/OPclass/{SD}_{kind}.npy"
        file.rename(file.with_suffix(".away"))
        assert wrong(look(check_copy, method)) == ({name: "missing"} if name in READ_BY[method] else {}), kind
        file.with_suffix(".away").rename(file)


@pytest.mark.parametrize("method", READ_BY)
def test_arrays_of_another_old_model_are_wrong(look, check_copy, method):
    torch.save({"weight": torch.arange(1.0, 4.0)}, check_copy / "old/model.pt")
    assert wrong(look(check_copy, method)) == dict.fromkeys(READ_BY[method], "wrong")
    (check_copy / "old/model.pt").unlink()
    report = look(check_copy, method)                                 # it cannot be compared: a warning, the arrays are right
    assert wrong(report) == {} and ("old model", "warning") in {(what, verdict) for what, _, verdict in report.rows}


@pytest.mark.parametrize("method, kind, array", [
    ("MixBCT", "feature", np.ones((40, 128), np.float32)), ("MixBCT", "feature", np.ones((41, 64), np.float32)),
    ("MixBCT", "credible_ratio_90_feature", np.ones(42, bool)), ("BCT", "avg_feature", np.ones((4, 128), np.float32)),
    ("BCT", "avg_feature", np.full((5, 128), np.nan, np.float32))])
def test_an_array_of_another_shape_or_with_nan_is_wrong(look, check_copy, method, kind, array):
    save_array(check_copy / f"save/OPclass/{SD}_{kind}.npy", array, {})
    assert wrong(look(check_copy, method)) == {KINDS[kind]: "wrong"}


def test_every_row_is_read_for_nan_only_if_asked(look, check_copy, monkeypatch):
    """Three of 41 rows are looked at without --all: the first, the last and the one in the middle."""
    monkeypatch.setattr(record_rows, "ROWS_WITHOUT_ALL", 3)
    assert record_rows.spread(41).tolist() == [0, 20, 40]
    for row, seen in ((40, True), (20, True), (19, False)):
        array = np.ones((41, 128), np.float32)
        array[row, 5] = np.nan
        save_array(check_copy / f"save/OPclass/{SD}_feature.npy", array, {})
        assert wrong(look(check_copy, "L2")) == ({"old_feature": "wrong"} if seen else {}), row
        assert wrong(look(check_copy, "L2", every=True)) == {"old_feature": "wrong"}


# --- records -----------------------------------------------------------------------------------------------

def faces(folder: Path, labels: list, classes: int, images=None, **how) -> FaceRecords:
    with RecordWriter(folder / "some") as writer:
        writer.write(0, pack([len(labels) + 1, classes], b"", 0, 0))
        for key, label in enumerate(labels, 1):
            image = (images or {}).get(key, jpeg(0, key, 16))
            writer.write(key, pack([label, key], image, key, 0))
    return FaceRecords(folder / "some", 16, **how)


@pytest.mark.parametrize("labels, verdict, word", [
    ([0, 1, 2, 2], "ok", "all 4 are whole numbers from 0 to 3 - 1"), ([0, 1, 2, 3], "wrong", "record 4 has 3"),
    ([0, 1, 2, -1], "wrong", "record 4 has -1"), ([0, .5, 2, 1], "wrong", "record 2 has 0.5")])
def test_a_label_is_a_whole_number_below_the_number_of_classes(tmp_path, labels, verdict, word):
    found, how = record_rows.look_at_labels(faces(tmp_path, labels, 3))
    assert how == verdict and word in found


@pytest.mark.parametrize("labels, how, expected", [
    ([0, 1, 2, 2], {}, [("ok", "images per class: 1 to 2, median 1")]),
    ([0, 0, 2, 2], {}, [("warning", "2 people, 3 classes declared: 1 classes have no image"), ("ok", "class: 0 to 2")]),
    ([0, 1, 2, 2], {"num_classes": 5}, [("warning", "has 3 classes: 2 classes have no image"), ("ok", "class: 0 to 2")]),
    ([2, 2, 2, 2], {}, [("wrong", "holds one identity (label 2)")]),
    ([2, 2, 2, 7], {"bad_records": "skip"}, [("wrong", "holds one identity (label 2)")]),
    ([0, 7, 2, 2], {"bad_records": "skip"}, [("warning", "2 people, 3 classes declared"), ("ok", "images per class: 0 to 3")]),
    ([0, 7, 2, 2], {}, [])])
def test_the_check_has_the_trainings_warnings_of_classes(tmp_path, monkeypatch, labels, how, expected):
    """Rows "classes"; a label that is not a class has the row "labels" alone, unless the training replaces the record."""
    monkeypatch.setattr(record_rows, "look_at_images", lambda *_: ("", "ok"))
    faces(tmp_path, labels, 3)
    cfg = load_config(ROOT / OLD, ["rec=some", f"dataset={tmp_path}", "batch_size=2", "image_size=16",
                                   *(f"{key}={value}" for key, value in how.items())])
    record_rows.look_at_records(cfg, 1, False, report := Report())
    found = [(verdict, text) for what, text, verdict in report.rows if what == "classes"]
    assert [verdict for verdict, _ in found] == [verdict for verdict, _ in expected]
    assert all(words in text for (_, text), (_, words) in zip(found, expected, strict=True)), found
    assert ("labels", "wrong") in {(what, verdict) for what, _, verdict in report.rows} or (
        expected or how.get("bad_records") == "skip")


def test_a_part_of_another_train_rec_is_wrong(tmp_path):
    """A part says from what it was split; one that does not is a warning next to a train.rec, and fine without one."""
    write_records(tmp_path / "train", [4, 6, 5, 3, 2, 7])
    split(tmp_path / "train.rec", 0.3, tmp_path)
    part = tmp_path / "train_part_70_class.rec"
    assert record_rows.look_at_split(part) == ("from train.rec with 27 images, ratio 0.3", "ok")
    write_records(tmp_path / "train", [4, 6, 5, 3, 2, 8])
    with pytest.raises(UserError, match=r"70_class.rec in .* was split from another train.rec \(27 images then, 28 now"):
        record_rows.look_at_split(part)
    part.with_suffix(".json").unlink()
    text, verdict = record_rows.look_at_split(part)
    assert verdict == "warning" and f"split_dataset_ms1mv3.py --data {tmp_path} --force" in text
    (tmp_path / "train.rec").unlink()
    text, verdict = record_rows.look_at_split(part)
    assert verdict == "ok" and "it is not known from which train.rec" in text


def test_images_are_sampled_unless_all_are_asked_for(tmp_path, monkeypatch):
    monkeypatch.setattr(record_rows, "ROWS_WITHOUT_ALL", 3)
    for key, sampled in ((9, "wrong"), (4, "ok")):              # rows 8, the last one, and 3 of nine
        some = faces(tmp_path, [0] * 9, 1, {key: b"no image"})
        assert record_rows.look_at_images(some, every=False)[1] == sampled
        text, verdict = record_rows.look_at_images(some, every=True)
        assert verdict == "wrong" and "1 of 9 cannot be read" in text and f"record {key}" in text
    text, verdict = record_rows.look_at_images(faces(tmp_path, [0] * 9, 1, {2: jpeg(0, 2, 32)}), every=True)
    assert "9 of 9 decoded; 1 are not 16x16" in text and verdict == "warning"


def test_a_corrupt_verification_set_and_records_smaller_than_a_step_are_wrong(look, check_copy):
    assert wrong(look(check_copy, "L2", "batch_size=20")) == {}       # 2 x 20 of 41 images
    assert wrong(look(check_copy, "L2", "batch_size=21")) == {"step": "wrong"}
    assert wrong(look(check_copy, "L2", "batch_size=21", ranks=1)) == {}
    (check_copy / "data/lfw.bin").write_bytes(b"corrupt")
    assert wrong(look(check_copy, "L2")) == {"lfw": "wrong"}


# --- what a training takes ---------------------------------------------------------------------------------

def test_ranks_head_and_method_reach_the_disk_and_the_memory(look, check_folder):
    rows = {what: found for what, found, _ in look(check_folder, "AdvBCT", ranks=3, every=True).rows}
    assert set(rows) == {"config", "records", "step", "split", "labels", "classes", "images", "output", "lfw", "old model",
                         "old_feature", "order of rows", "disk", "GPU memory", "shared memory"}
    assert (rows["disk"], rows["GPU memory"], rows["images"]) == ("3 AdvBCT 5", "3 of 3 PartialFC AdvBCT", "41 True")
    rows = {what: found for what, found, _ in look(check_folder, "old", "rec=train_part_70_class").rows}
    assert (rows["GPU memory"], rows["images"]) == ("2 of 2 SoftmaxHead Method", "41 False")
    assert not {"disk", "GPU memory"} & {what for what, _, _ in look(check_folder, "L2", "lr=fast").rows}


def test_a_network_or_a_head_that_cannot_be_built_is_a_wrong_setting(look, check_folder, monkeypatch):
    assert wrong(look(check_folder, "old", "rec=train_part_70_class", "sample_rate=0.5")) == {"settings": "wrong"}      # softmax

    def refuse(cfg, device):
        raise UserError("expected another network")
    monkeypatch.setattr(check, "new_backbone", refuse)
    assert wrong(look(check_folder, "L2")) == {"settings": "wrong"}


def test_a_disk_needs_a_fifth_more_than_will_be_written(tmp_path, monkeypatch):
    """Files of 10 x 5 x 2 = 100 bytes and logs of 3000, of which 100 are there: 3000 x 1.2 must be free."""
    cfg = load_config(ROOT / OLD, [f"output={tmp_path}", "batch_size=4", "num_epoch=1", "frequent=5"])
    data = Facts(images=81, classes=5)                          # 81 // (4 x 2) = 10 steps
    assert cost.log_bytes(cfg, 81, 2) == (10 // 5 + 1) * 1000
    (tmp_path / "old.log").write_bytes(bytes(100))
    monkeypatch.setattr(resource_rows, "training_bytes", lambda cfg, classes, ranks, method: (0, 10 * classes * ranks + method))
    method = nn.Linear(25, 1, bias=False)                       # 100 bytes more
    method.view_has_head = False
    for free, module, verdict in ((3600, None, "ok"), (3599, None, "wrong"), (3600, method, "wrong"), (3720, method, "ok")):
        monkeypatch.setattr(cost.shutil, "disk_usage", lambda _, free=free: namedtuple("usage", "free")(free))
        assert resource_rows.look_at_disk(cfg, data, 2, module)[1] == verdict


def test_memory_is_compared_with_the_gpus_own(monkeypatch):
    monkeypatch.setattr(resource_rows, "gpu_bytes", lambda *_: {"a": 3 * 10**9, "b": 10**9})
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for there, verdict in ((3.9e9, "wrong"), (4.4e9, "warning"), (4.5e9, "ok")):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda there=there: (0, there))
        text, found = resource_rows.look_at_gpu(None, Facts(images=81, classes=5), 2, None, None)
        assert found == verdict and "4.0 GB on each of 2: a 3.00, b 1.00" in text
