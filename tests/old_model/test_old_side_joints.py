"""Step 2 in one process: row i is image i, every option reaches the computation, every result names what it was made of."""

import json
import math
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import nn
from toy import write_records

from backbones.weights import fingerprint
from engine.distributed import Ranks
from records.faces import FaceRecords
from records.images import to_input
from records.recordio import RecordWriter, pack
from records.split import split
from tools.get_feature import denoise_credible, get_avg_feature, get_feature
from tools.get_feature.get_feature import PartialFile, extract
from utils.errors import UserError
from utils.origin import save_array

CONFIG = Path(__file__).resolve().parents[2] / "configs/f128_r18_softmax_class30.py"
CPU = torch.device("cpu")
LABELS = [3, 0, 2, 1, 1, 0, 3, 3, 2, 0, 1, 2, 2, 0, 1, 3, 3]


def colour(i: int) -> list[int]:
    return [13 * i, 250 - 9 * i, 3 * i + 40]


@pytest.fixture
def faces(tmp_path) -> FaceRecords:
    """Image i has one colour of its own; labels in no order."""
    with RecordWriter(tmp_path / "train") as writer:
        for i, label in enumerate(LABELS):
            bgr = np.full((8, 8, 3), colour(i)[::-1], np.uint8)
            writer.write(i, pack(label, cv2.imencode(".png", bgr)[1].tobytes(), i, 0))
    return FaceRecords(tmp_path / "train")


class MeanColour(nn.Module):
    """The stand-in for a model: the mean of each channel of the network's input, and of its left half."""

    image_size, num_features = 8, 6

    def __init__(self, stop_at: int | None = None):
        super().__init__()
        self.stop_at, self.images = stop_at, []

    def forward(self, x):
        self.images.append(len(x))
        if len(self.images) == self.stop_at:
            raise KeyboardInterrupt
        return torch.cat([x.mean((2, 3)), x[:, :, :, :4].mean((2, 3))], 1)


def expected_rows() -> np.ndarray:
    """By hand: (c - 127.5) / 127.5 of each channel."""
    return np.array([[(c - 127.5) / 127.5 for c in colour(i)] * 2 for i in range(len(LABELS))])


PLAN = {"images": 17, "dim": 6, "batch_size": 3, "model": "m", "records": "r"}


def run_ranks(folder: Path, faces: FaceRecords, world_size: int, models: list[nn.Module], workers: int = 0) -> PartialFile:
    """One rank after the other, as far as its model goes; the first rank's file."""
    files = []
    for rank, model in enumerate(models):
        ranks = Ranks(rank, world_size, CPU)
        files.append(PartialFile(folder / "feature.npy", folder / "label.npy", PLAN, ranks))
        try:
            extract(lambda images, model=model: model(to_input(images, CPU)).numpy(), faces, files[-1], ranks,
                    PLAN["batch_size"], workers)
        except KeyboardInterrupt:
            pass
    return files[0]


def check_rows(folder: Path) -> None:
    np.testing.assert_allclose(np.load(folder / "feature.npy"), expected_rows(), atol=1e-6)
    assert np.load(folder / "label.npy").tolist() == LABELS


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_row_i_is_image_i_however_many_share_the_work(faces, tmp_path, one_rank, world_size, workers):
    models = [MeanColour() for _ in range(world_size)]
    run_ranks(tmp_path, faces, world_size, models, workers).finish({})
    check_rows(tmp_path)
    batches = [3, 3, 3, 3, 3, 2]
    assert [model.images for model in models] == [batches[rank::world_size] for rank in range(world_size)]


def test_row_i_is_image_i_after_a_stop_on_other_ranks(faces, tmp_path, one_rank):
    """Two ranks of which each does one batch and ends in its second; three ranks do the other four batches."""
    file = run_ranks(tmp_path, faces, 2, [MeanColour(stop_at=2), MeanColour(stop_at=2)])
    assert np.load(file.names["done"]).tolist() == [True, True, False, False, False, False]
    models = [MeanColour() for _ in range(3)]
    run_ranks(tmp_path, faces, 3, models).finish({"model": "m"})
    check_rows(tmp_path)
    assert [model.images for model in models] == [[3], [3], [3, 2]]


@pytest.mark.parametrize("what", ["model", "records", "batch_size", "images"])
def test_what_was_extracted_under_another_plan_is_not_used(faces, tmp_path, one_rank, what):
    file = run_ranks(tmp_path, faces, 1, [MeanColour()])
    assert file.done.all()
    names = tmp_path / "feature.npy", tmp_path / "label.npy"
    assert PartialFile(*names, PLAN, one_rank).done.all()
    other = PLAN | {what: {"batch_size": 4, "images": 16}.get(what, "another")}
    again = PartialFile(*names, other, one_rank)
    assert not again.done.any() and not again.features.any() and not again.labels.any()


# the command

PARTS = {"class100": ("EXclass", "train", [5, 4]), "data100": ("EXdata", "train", [5, 4]),
         "class70": ("OPclass", "train_part_70_class", [2, 3, 4]), "data70": ("OPdata", "train_part_70_data", [1, 7]),
         "class30": ("OPclass", "train_part_30_class", [1, 2]), "data30": ("OPdata", "train_part_30_data", [3, 3])}


@pytest.fixture
def command(tmp_path, monkeypatch):
    """get_feature in this process, with the stand-in for a model; asked: what load_model was called with."""
    (tmp_path / "old").mkdir()
    state = {"weight": torch.arange(6.0)}
    torch.save(state, tmp_path / "old/model.pt")
    asked = []

    def load_model(network, path, fp16=False):
        asked.append((network, Path(path), fp16))
        return MeanColour()
    monkeypatch.setattr("evaluation.models.load_model", load_model)

    def call(sd: str, *more: str) -> tuple:
        monkeypatch.setattr(sys, "argv", [
            "get_feature.py", str(CONFIG), "--SD", f"f128_r18_softmax_{sd}", "--batch", "4", "workers=0", "embedding_size=6",
            f"dataset={tmp_path / 'data'}", f"output={tmp_path / 'old'}", f"feature_save={tmp_path / 'save'}", *more])
        get_feature.main()
        assert not dist.is_initialized()
        return asked[-1]
    return call, tmp_path, fingerprint(state)


@pytest.mark.parametrize("part", PARTS)
def test_sd_says_which_records_are_read_and_where_the_features_go(command, part):
    call, folder, model = command
    for name, counts in {(name, tuple(counts)) for _, name, counts in PARTS.values()}:
        write_records(folder / "data" / name, list(counts), size=8)
    scenario, name, counts = PARTS[part]
    assert call(part) == ("r18", folder / "old/model.pt", False)
    assert [path.name for path in (folder / "save").iterdir()] == [scenario]
    start = folder / "save" / scenario / f"f128_r18_softmax_{part}"
    labels = [label for label, n in enumerate(counts) for _ in range(n)]
    assert np.load(f"{start}_label.npy").tolist() == labels
    features, data = np.load(f"{start}_feature.npy"), FaceRecords(folder / "data" / name)
    assert features.dtype == np.float32
    for i in range(len(labels)):
        red_green_blue = (data[i][0].astype(np.float64).mean((0, 1)) - 127.5) / 127.5
        np.testing.assert_allclose(features[i, :3], red_green_blue, atol=1e-6)
    for kind in ("feature", "label"):
        origin = json.loads(Path(f"{start}_{kind}.json").read_text())
        assert {k: origin[k] for k in ("model", "records", "images", "dim", "image_size", "fp16")} == {
            "model": model, "records": data.fingerprint(), "images": len(labels), "dim": 6, "image_size": 8, "fp16": False}
        assert origin["bytes"] == Path(f"{start}_{kind}.npy").stat().st_size


def test_options_of_the_extraction(command):
    """--fp16 and network= reach the model, --batch the steps; images of another size are shrunk to the model's."""
    call, folder, _ = command
    write_records(folder / "data/train_part_70_class", [5, 4], size=16)
    assert call("class70", "--fp16", "network=r50") == ("r50", folder / "old/model.pt", True)
    start = folder / "save/OPclass/f128_r18_softmax_class70"
    features, data = np.load(f"{start}_feature.npy"), FaceRecords(folder / "data/train_part_70_class")
    for i in range(9):
        left = (data[i][0].astype(np.float64)[:, :8].mean((0, 1)) - 127.5) / 127.5         # not mirrored
        np.testing.assert_allclose(features[i, 3:], left, atol=2e-3)        # the smaller image's pixels are whole numbers
    assert json.loads(Path(f"{start}_feature.json").read_text())["fp16"] is True


def test_features_of_a_part_of_another_train_rec_are_refused(command):
    call, folder, _ = command
    write_records(folder / "data/train", [5, 4, 3, 6], size=8)
    split(folder / "data/train.rec", 0.3, folder / "data")
    call("class70")
    write_records(folder / "data/train", [5, 4, 3, 7], size=8)
    with pytest.raises(UserError, match=r"70_class.rec in .* was split from another train.rec \(18 images then, 19 now"):
        call("class70")
    dist.destroy_process_group()
    call("class100")                                        # the whole set is not a part


# credible marks and prototypes

@pytest.fixture
def saved(tmp_path):
    """Features [40, 3] of 4 classes in no order, of very different norms, with a description."""
    draw = np.random.default_rng(5)
    labels = draw.permutation(np.arange(40) % 4)
    rows = (draw.standard_normal((40, 3)) * [1, 30, 0.1] * draw.uniform(1, 9, (40, 1))).astype(np.float32)
    for kind, array in (("feature", rows), ("label", labels)):
        save_array(tmp_path / f"here/OPdata/f3_r18_arc_data70_{kind}.npy", array, {"model": "m", "records": "r", "images": 40})
    return tmp_path / "here", rows.astype(np.float64), labels


def nearest(rows: np.ndarray, labels: np.ndarray, keep: int, column_norm: bool) -> list[bool]:
    """The ``keep`` images of each class that are nearest to its mean."""
    rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    if column_norm:
        rows = rows / np.linalg.norm(rows, axis=0)
    mask = [False] * len(rows)
    for label in range(4):
        images = [i for i in range(len(rows)) if labels[i] == label]
        mean = sum(rows[i] for i in images) / len(images)
        for i in sorted(images, key=lambda i: math.dist(rows[i], mean))[:keep]:
            mask[i] = True
    return mask


@pytest.mark.parametrize("share, keep", [("0.9", 9), ("0.45", 5)])
@pytest.mark.parametrize("option, column_norm", [([], True), (["--no-column-norm"], False)])
def test_options_of_the_credible_marks(saved, monkeypatch, share, keep, option, column_norm):
    folder, rows, labels = saved
    expected = nearest(rows, labels, keep, column_norm)
    assert expected != nearest(rows, labels, keep, not column_norm)
    monkeypatch.setattr(sys, "argv", ["denoise_credible.py", "--SD", "f3_r18_arc_data70", "--T", share, "--feature-save",
                                      str(folder), *option])
    denoise_credible.main()
    file = folder / f"OPdata/f3_r18_arc_data70_credible_ratio_{round(100 * float(share))}_feature.npy"
    assert np.load(file).tolist() == expected
    origin = json.loads(file.with_suffix(".json").read_text())
    assert origin | {"model": "m", "records": "r", "images": 40, "T": float(share), "column_norm": column_norm} == origin
    assert origin["bytes"] == file.stat().st_size


def test_prototypes_are_the_directions_of_the_raw_means(saved, monkeypatch):
    """The mean of the features as they are, then of length 1: not the mean of unit rows."""
    folder, rows, labels = saved
    monkeypatch.setattr(sys, "argv", ["get_avg_feature.py", "--SD", "f3_r18_arc_data70", "--feature-save", str(folder)])
    get_avg_feature.main()
    found = np.load(folder / "OPdata/f3_r18_arc_data70_avg_feature.npy")
    assert found.dtype == np.float32 and found.shape == (4, 3)
    for label in range(4):
        mean = sum(row for row, other in zip(rows, labels, strict=True) if other == label)
        np.testing.assert_allclose(found[label], mean / np.linalg.norm(mean), atol=1e-6)
    origin = json.loads((folder / "OPdata/f3_r18_arc_data70_avg_feature.json").read_text())
    assert origin | {"model": "m", "records": "r", "images": 40} == origin


@pytest.mark.parametrize("tool", [denoise_credible, get_avg_feature])
@pytest.mark.parametrize("kind", ["feature", "label"])
def test_a_foreign_array_is_not_computed_with(saved, monkeypatch, tool, kind):
    folder = saved[0]
    file = folder / f"OPdata/f3_r18_arc_data70_{kind}.npy"
    array = np.load(file)
    np.save(file, array[::-1])
    monkeypatch.setattr(sys, "argv", ["tool.py", "--SD", "f3_r18_arc_data70", "--feature-save", str(folder)])
    with pytest.raises(UserError, match=f"_{kind}.npy is corrupt, or not the file"):
        tool.main()
