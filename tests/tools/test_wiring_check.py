"""The check before a training: one fault at a time, and exactly the row that it belongs to is wrong."""

import pickle
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

from backbones import get_model
from backbones.weights import fingerprint
from records.faces import FaceRecords
from records.recordio import RecordWriter, pack
from tools.check import check, cost
from utils.config import load_config
from utils.old_features import save_array

ROOT = Path(__file__).resolve().parents[2]
SD, OLD = "f128_r18_softmax_class70", "configs/f128_r18_softmax_class30.py"
COUNTS = [9, 11, 7, 8, 6]                                       # images per class: 41
KINDS = {"feature": "old_feature", "credible_ratio_90_feature": "credible", "avg_feature": "prototypes"}


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """Records, a verification set, an old model and all that it leaves."""
    folder = tmp_path_factory.mktemp("check")
    labels = np.array(write_records(folder / "data/train_part_70_class", COUNTS))
    images = [jpeg(i // 2, i, 16) for i in range(24)]
    (folder / "data/lfw.bin").write_bytes(pickle.dumps((images, [True, False] * 6)))
    model = {"weight": torch.arange(3.0)}                      # any tensors: only their fingerprint is compared
    (folder / "old").mkdir()
    torch.save(model, folder / "old/model.pt")
    origin = {"model": fingerprint(model), "records": FaceRecords(folder / "data/train_part_70_class").fingerprint(),
              "images": len(labels)}
    draw = np.random.default_rng(0)
    for kind, array in (("feature", draw.standard_normal((41, 128)).astype(np.float32)), ("label", labels),
                        ("credible_ratio_90_feature", draw.random(41) < 0.9),
                        ("avg_feature", draw.standard_normal((5, 128)).astype(np.float32))):
        save_array(folder / f"save/OPclass/{SD}_{kind}.npy", array, origin)
    return folder


@pytest.fixture
def data(made, tmp_path) -> Path:
    return shutil.copytree(made, tmp_path / "copy")


@pytest.fixture
def look(monkeypatch):
    """Checks a method's config on a folder; gives the report.  What takes long, and has its own test, gives its arguments."""
    monkeypatch.setattr(check, "look_at_gpu", lambda cfg, ranks, head, method: (
        f"{ranks} of {dist.get_world_size()} {head.__name__} {type(method).__name__}"))
    monkeypatch.setattr(check, "look_at_disk", lambda cfg, ranks, method: f"{ranks} {type(method).__name__} {cfg.num_classes}")
    monkeypatch.setattr(check, "look_at_images", lambda faces, every: f"{len(faces)} {every}")
    monkeypatch.setattr(check, "new_backbone", lambda cfg: None)

    def call(folder: Path, method: str, *settings: str, ranks: int = 2, every: bool = False) -> check.Report:
        where = [f"dataset={folder / 'data'}", f"feature_save={folder / 'save'}", f"old_model={folder / 'old/model.pt'}",
                 f"output={folder / 'out'}", "network=mbf", "image_size=16", "batch_size=4", "val_targets=['lfw']"]
        name = f"BCT_Methods/{method}/configs/OPclass_ms1mv3_r18_to_r50_{method}_softmax_to_arc_f128.py"
        config = str(ROOT / (OLD if method == "old" else name))
        return check.check(Namespace(config=config, overrides=[*where, *settings], ranks=ranks, all=every, script=None))
    return call


def wrong(report: check.Report) -> dict[str, str]:
    """{what: verdict} of the rows that end the check."""
    assert report.problems() == sum(verdict in ("missing", "wrong") for _, _, verdict in report.rows)
    return {what: verdict for what, _, verdict in report.rows if verdict in ("missing", "wrong")}


# --- what the old model left -------------------------------------------------------------------------------

READ_BY = {"MixBCT": {"old_feature", "credible"}, "L2": {"old_feature"}, "BCT": {"prototypes"}}


@pytest.mark.parametrize("method", READ_BY)
def test_a_missing_array_is_missing_for_the_methods_that_read_it_only(look, data, method):
    for kind, name in KINDS.items():
        file = data / f"save/OPclass/{SD}_{kind}.npy"
        file.rename(file.with_suffix(".away"))
        assert wrong(look(data, method)) == ({name: "missing"} if name in READ_BY[method] else {}), kind
        file.with_suffix(".away").rename(file)


@pytest.mark.parametrize("method", READ_BY)
def test_arrays_of_another_old_model_are_wrong(look, data, method):
    torch.save({"weight": torch.arange(1.0, 4.0)}, data / "old/model.pt")
    assert wrong(look(data, method)) == dict.fromkeys(READ_BY[method], "wrong")
    (data / "old/model.pt").unlink()
    report = look(data, method)                                 # it cannot be compared: a warning, the arrays are right
    assert wrong(report) == {} and ("old model", "warning") in {(what, verdict) for what, _, verdict in report.rows}


@pytest.mark.parametrize("method, kind, array", [
    ("MixBCT", "feature", np.ones((40, 128), np.float32)), ("MixBCT", "feature", np.ones((41, 64), np.float32)),
    ("MixBCT", "credible_ratio_90_feature", np.ones(42, bool)), ("BCT", "avg_feature", np.ones((4, 128), np.float32)),
    ("BCT", "avg_feature", np.full((5, 128), np.nan, np.float32))])
def test_an_array_of_another_shape_or_with_nan_is_wrong(look, data, method, kind, array):
    save_array(data / f"save/OPclass/{SD}_{kind}.npy", array, {})
    assert wrong(look(data, method)) == {KINDS[kind]: "wrong"}


def test_every_row_is_read_for_nan_only_if_asked(look, data, monkeypatch):
    """Three of 41 rows are looked at without --all: the first, the last and the one in the middle."""
    monkeypatch.setattr(check, "SAMPLE", 3)
    assert check.spread(41).tolist() == [0, 20, 40]
    for row, seen in ((40, True), (20, True), (19, False)):
        array = np.ones((41, 128), np.float32)
        array[row, 5] = np.nan
        save_array(data / f"save/OPclass/{SD}_feature.npy", array, {})
        assert wrong(look(data, "L2")) == ({"old_feature": "wrong"} if seen else {}), row
        assert wrong(look(data, "L2", every=True)) == {"old_feature": "wrong"}


# --- records -----------------------------------------------------------------------------------------------

def faces(folder: Path, labels: list, classes: int, images=None, **how) -> FaceRecords:
    with RecordWriter(folder / "some") as writer:
        writer.write(0, pack([len(labels) + 1, classes], b"", 0, 0))
        for key, label in enumerate(labels, 1):
            image = (images or {}).get(key, jpeg(0, key, 16))
            writer.write(key, pack([label, key], image, key, 0))
    return FaceRecords(folder / "some", 16, **how)


@pytest.mark.parametrize("labels, verdict, word", [
    ([0, 1, 2, 2], "ok", "1 to 2, median 1"), ([0, 0, 2, 2], "warning", "1 classes have no image"),
    ([0, 1, 2, 3], "wrong", "record 4 has 3"), ([0, 1, 2, -1], "wrong", "record 4 has -1"),
    ([0, .5, 2, 1], "wrong", "record 2 has 0.5")])
def test_a_label_is_a_whole_number_below_the_number_of_classes(tmp_path, labels, verdict, word):
    found, how = check.look_at_labels(faces(tmp_path, labels, 3))
    assert how == verdict and word in found


def test_images_are_sampled_unless_all_are_asked_for(tmp_path, monkeypatch):
    monkeypatch.setattr(check, "SAMPLE", 3)
    for key, sampled in ((9, "wrong"), (4, "ok")):              # rows 8, the last one, and 3 of nine
        some = faces(tmp_path, [0] * 9, 1, {key: b"no image"})
        assert check.look_at_images(some, every=False)[1] == sampled
        text, verdict = check.look_at_images(some, every=True)
        assert verdict == "wrong" and "1 of 9 cannot be read" in text and f"record {key}" in text
    text, verdict = check.look_at_images(faces(tmp_path, [0] * 9, 1, {2: jpeg(0, 2, 32)}), every=True)
    assert "9 of 9 decoded; 1 are not 16x16" in text and verdict == "warning"


def test_a_broken_verification_set_and_records_smaller_than_a_step_are_wrong(look, data):
    assert wrong(look(data, "L2", "batch_size=20")) == {}       # 2 x 20 of 41 images
    assert wrong(look(data, "L2", "batch_size=21")) == {"step": "wrong"}
    assert wrong(look(data, "L2", "batch_size=21", ranks=1)) == {}
    (data / "data/lfw.bin").write_bytes(b"torn")
    assert wrong(look(data, "L2")) == {"lfw": "wrong"}


# --- what a training takes ---------------------------------------------------------------------------------

def test_ranks_head_and_method_reach_the_disk_and_the_memory(look, made):
    rows = {what: found for what, found, _ in look(made, "AdvBCT", ranks=3, every=True).rows}
    assert set(rows) == {"config", "records", "step", "labels", "images", "output", "lfw", "old model", "old_feature", "disk",
                         "GPU memory"}
    assert (rows["disk"], rows["GPU memory"], rows["images"]) == ("3 AdvBCT 5", "3 of 3 PartialFC AdvBCT", "41 True")
    rows = {what: found for what, found, _ in look(made, "old", "rec=train_part_70_class").rows}
    assert (rows["GPU memory"], rows["images"]) == ("2 of 2 SoftmaxHead Method", "41 False")
    assert not {"disk", "GPU memory"} & {what for what, _, _ in look(made, "L2", "lr=fast").rows}


def test_a_disk_needs_a_fifth_more_than_will_be_written(tmp_path, monkeypatch):
    """Files of 10 x 5 x 2 = 100 bytes and logs of 3000, of which 100 are there: 3000 x 1.2 must be free."""
    cfg = load_config(ROOT / OLD, [f"output={tmp_path}", "batch_size=4", "num_epoch=1", "frequent=5"])
    cfg.num_classes, cfg.num_image = 5, 81                      # 81 // (4 x 2) = 10 steps
    assert cost.log_bytes(cfg, 81, 2) == (10 // 5 + 1) * 1000
    (tmp_path / "old.log").write_bytes(bytes(100))
    monkeypatch.setattr(check, "training_bytes", lambda cfg, classes, ranks, method: (0, 10 * classes * ranks + method))
    method = nn.Linear(25, 1, bias=False)                       # 100 bytes more
    for free, held, verdict in ((3600, None, "ok"), (3599, None, "wrong"), (3600, method, "wrong"), (3720, method, "ok")):
        monkeypatch.setattr(cost.shutil, "disk_usage", lambda _, free=free: namedtuple("usage", "free")(free))
        assert check.look_at_disk(cfg, 2, held)[1] == verdict


def test_memory_is_compared_with_the_gpus_own(monkeypatch):
    monkeypatch.setattr(check, "gpu_bytes", lambda *_: {"a": 3 * 10**9, "b": 10**9})
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for there, verdict in ((3.9e9, "wrong"), (4.4e9, "warning"), (4.5e9, "ok")):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda there=there: (0, there))
        text, found = check.look_at_gpu(Namespace(num_classes=5), 2, None, None)
        assert found == verdict and "4.0 GB on each of 2: a 3.00, b 1.00" in text


def test_the_bytes_of_a_checkpoint_by_hand():
    """Weights and one momentum (sgd) or two moments (adamw): the backbone's on every rank, the classes' divided over them."""
    backbone = sum(p.numel() for p in get_model("mbf", num_features=128, image_size=16).parameters())
    for optimizer, numbers in (("sgd", 2), ("adamw", 3)):
        for more, kept in (([], 2), (["num_epoch=1"], 1), (["num_epoch=1", "save_every=5"], 2), (["keep_checkpoints=4"], 4)):
            cfg = load_config(ROOT / OLD, ["network=mbf", "image_size=16", f"optimizer={optimizer}", *more])
            checkpoint = 4 * numbers * (3 * backbone + 50 * 128) + 3 * 70
            left = kept * checkpoint + 4 * (backbone + 50 * 128)
            assert cost.training_bytes(cfg, 50, 3, 70) == (left, left + checkpoint), (optimizer, more)


def test_disks_add_up_what_goes_to_the_same_one(tmp_path, monkeypatch):
    monkeypatch.setattr(cost.shutil, "disk_usage", lambda _: namedtuple("usage", "free")(77))
    (tmp_path / "a").mkdir()
    assert cost.disks({tmp_path / "a": 5, tmp_path / "not/yet": 7, tmp_path: -3}) == [(tmp_path / "a", 12, 77)]


def test_each_part_of_a_gpus_memory_by_hand(monkeypatch):
    """sgd: everything that learns is kept twice.  The steps get the shapes of a rank's batch and the sampled classes."""
    cfg = load_config(ROOT / OLD, ["network=mbf", "image_size=32", "batch_size=6", "sample_rate=0.5"])
    steps = []
    monkeypatch.setattr(cost, "step_bytes", lambda module, *inputs: steps.append((module, inputs)) or len(steps))
    method = nn.Linear(9, 1, bias=False)
    method.register_buffer("kept", torch.zeros(25))
    parts = cost.gpu_bytes(cfg, 101, 2, lambda *args, **more: (args, more), method)
    backbone = get_model("mbf", num_features=128, image_size=32)
    weights = sum(t.numel() * t.element_size() for t in (*backbone.parameters(), *backbone.buffers()))
    assert parts == {"backbone": 2 * weights, "classes": 2 * 4 * 51 * 128, "method": 36 + 100 + 2 * 36, "images": 1, "logits": 2,
                     "CUDA": 10**9}
    (_, (images,)), ((arguments, _), (rows, labels)) = steps
    assert (images.shape, rows.shape, labels.shape) == ((6, 3, 32, 32), (6, 128), (6,)) and arguments[1:] == (128, 50)
