"""make_rec, split and the exporters in one process: colours, names, options and the order of classes reach the files."""

import sys
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn
from toy import write_records

from records.faces import FaceRecords
from records.recordio import RecordReader, RecordWriter, pack
from tools.export_classifier import export_classifier
from tools.export_onnx import export_onnx
from tools.make_rec import make_rec
from tools.split_dataset import split_dataset_ms1mv3


def run(monkeypatch, module, *args) -> None:
    monkeypatch.setattr(sys, "argv", [f"{module.__name__}.py", *map(str, args)])
    module.main()


# make_rec

def write_person(folder: Path, name: str, pictures: dict[str, np.ndarray]) -> None:
    """pictures: RGB by file name."""
    (folder / name).mkdir(parents=True)
    for file, rgb in pictures.items():
        assert cv2.imwrite(str(folder / name / file), rgb[:, :, ::-1])


def plain(red: int, green: int, blue: int, size: int = 16) -> np.ndarray:
    return np.full((size, size, 3), (red, green, blue), np.uint8)


PEOPLE = {"zoe": {"2.png": plain(200, 30, 60), "10.png": plain(30, 200, 60)}, "adam": {"b.bmp": plain(20, 60, 220),
          "a.jpg": plain(90, 90, 10)}, "mo": {"x.webp": plain(250, 250, 0)}}
SORTED = [("adam", "a.jpg"), ("adam", "b.bmp"), ("mo", "x.webp"), ("zoe", "10.png"), ("zoe", "2.png")]


def test_a_folder_becomes_records_in_the_order_of_its_names(tmp_path, monkeypatch):
    """People and pictures sorted by name, whatever the file system's order; colours stay what they are."""
    for name, pictures in PEOPLE.items():
        write_person(tmp_path / "in", name, pictures)
    listed, found = Path.iterdir, Path.rglob
    monkeypatch.setattr(Path, "iterdir", lambda path: iter(sorted(listed(path), reverse=True)))
    monkeypatch.setattr(Path, "rglob", lambda path, pattern: iter(sorted(found(path, pattern), reverse=True)))
    run(monkeypatch, make_rec, tmp_path / "in", "--out", tmp_path / "out", "--size", 16)
    made = FaceRecords(tmp_path / "out")
    assert made.labels().tolist() == [0, 0, 1, 2, 2] and made.num_classes == 3
    for i, (name, file) in enumerate(SORTED):
        difference = made[i][0].astype(int) - PEOPLE[name][file]
        assert np.abs(difference).max() <= 6, (name, file)          # of JPEG
    assert (tmp_path / "out/identities.txt").read_text() == "0\tadam\n1\tmo\n2\tzoe\n"
    reader = RecordReader(tmp_path / "out/train")
    assert [reader.unpack(key)[0].label.tolist() for key in (0, 6, 7, 8)] == [[6, 9], [1, 3], [3, 4], [4, 6]]
    assert [reader.unpack(key)[0].label.tolist() for key in range(1, 6)] == [[0, 1], [0, 2], [1, 3], [2, 4], [2, 5]]
    assert [reader.unpack(key)[0].id for key in range(1, 6)] == [1, 2, 3, 4, 5]


def test_resize_takes_the_mean_of_the_pixels(tmp_path, monkeypatch):
    """Blocks of 3 x 3 pixels: six are white, the middle one is black."""
    block = np.array([[0, 255, 255], [255, 0, 255], [0, 255, 255]], np.uint8)
    write_person(tmp_path / "in", "ann", {"a.png": np.tile(block, (16, 16))[:, :, None].repeat(3, 2)})
    run(monkeypatch, make_rec, tmp_path / "in", "--out", tmp_path / "out", "--size", 16, "--resize")
    image = FaceRecords(tmp_path / "out")[0][0]
    assert image.shape == (16, 16, 3) and np.abs(image.astype(int) - 170).max() <= 3        # 6 of 9 pixels are white


# split

def test_parts_go_where_out_says_and_keep_all_of_a_record_but_its_class(tmp_path, monkeypatch):
    """Labels (class, something else): the class is counted from 0 in the new part, the rest stays."""
    counts = [3, 1, 4, 2, 5]
    labels = [label for label, n in enumerate(counts) for _ in range(n)]
    write_records(tmp_path / "in/train", counts)
    run(monkeypatch, split_dataset_ms1mv3, "--data", tmp_path / "in", "--out", tmp_path / "out", "--ratio", 0.4)
    assert sorted(path.name for path in (tmp_path / "in").iterdir()) == ["train.idx", "train.rec"]
    assert Counter(path.suffix for path in (tmp_path / "out").iterdir()) == {".rec": 4, ".idx": 4, ".json": 4, "": 1}     # lock
    # By hand: 40 % of 5 people are 2; of 3, 1, 4, 2, 5 images round to 1, 0, 2, 1, 2, at least 1.
    first = [0, 3, 4, 5, 8, 10, 11]
    members = {"40_class": range(4), "60_class": range(4, 15), "40_data": first,
               "60_data": [i for i in range(15) if i not in first or i == 3]}
    for name, images in members.items():
        reader = RecordReader(tmp_path / f"out/train_part_{name}")
        shift = 2 if name == "60_class" else 0
        found = [reader.unpack(key)[0].label.tolist() for key in range(1, len(images) + 1)]
        assert found == [[labels[i] - shift, i + 1] for i in images], name
        assert reader.unpack(0)[0].label.tolist() == [len(images) + 1, {"40_class": 2, "60_class": 3}.get(name, 5)]


def test_a_label_alone_gets_a_second_number(tmp_path, monkeypatch):
    """As the public script writes it: flag 2 and [class, 0]."""
    with RecordWriter(tmp_path / "train") as writer:
        for key, label in enumerate([0, 0, 0, 1, 1, 1, 2, 2]):
            writer.write(key, pack(label, b"image %d" % key, key, 0))
    monkeypatch.setattr(FaceRecords, "decode", lambda self, i, data=None: plain(0, 0, 0))
    run(monkeypatch, split_dataset_ms1mv3, "--data", tmp_path)
    reader = RecordReader(tmp_path / "train_part_70_class")
    records = [reader.unpack(key) for key in range(1, 6)]
    assert [(header.flag, header.label.tolist(), bytes(image)) for header, image in records] == [
        (2, [label, 0], b"image %d" % key) for key, label in ((3, 0), (4, 0), (5, 0), (6, 1), (7, 1))]


# export

class Half(nn.Module):
    image_size, num_features = 4, 3

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(48, 3)

    def forward(self, x):
        return self.linear(x.flatten(1))


@pytest.mark.long
@pytest.mark.parametrize("flags, asked, written", [
    (["-m", "m/model.pt"], ("r50", "m/model.pt"), "m/model.onnx"),
    (["-m", "m/model.pt", "-net", "vit_t", "-o", "to/there.onnx"], ("vit_t", "m/model.pt"), "to/there.onnx")])
def test_the_exporter_reads_and_writes_what_its_options_say(tmp_path, monkeypatch, flags, asked, written):
    """The embedding is written as it is, for network input as the README describes it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "m").mkdir()
    model, seen = Half().eval(), []
    monkeypatch.setattr(export_onnx, "load_model", lambda *args: seen.append(args) or model)
    run(monkeypatch, export_onnx, *flags)
    assert seen == [asked] and [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.onnx")] == [written]
    pixels = np.random.default_rng(0).integers(0, 256, (7, 4, 4, 3))
    x = np.moveaxis((pixels - 127.5) / 127.5, 3, 1).astype(np.float32)
    found = onnxruntime.InferenceSession(written).run(["embedding"], {"input": x})[0]
    weight, bias = (p.detach().double().numpy() for p in model.linear.parameters())
    np.testing.assert_allclose(found, x.reshape(7, 48).astype(np.float64) @ weight.T + bias, atol=1e-5)


@pytest.mark.parametrize("suffix", [".npy", ".pt"])
def test_a_classifier_is_exported_in_the_order_of_its_classes(tmp_path, monkeypatch, suffix):
    """Twelve ranks; .npy has the class vectors, .pt the biases, too."""
    rows = torch.arange(26.0).view(13, 2)
    for rank in range(12):
        own = slice(rank + (rank > 0), rank + 2)                 # the first rank holds two classes
        torch.save({"weight": rows[own], "bias": rows[own, 0] - 5, "class_start": own.start, "num_classes": 13},
                   tmp_path / f"softmax_fc_gpu_{rank}.pt")
    run(monkeypatch, export_classifier, "-f", tmp_path, "-o", tmp_path / f"sub/classifier{suffix}")
    if suffix == ".npy":
        found = np.load(tmp_path / "sub/classifier.npy")
        assert found.dtype == np.float32 and found.tolist() == rows.tolist()
    else:
        found = torch.load(tmp_path / "sub/classifier.pt", weights_only=True)
        assert torch.equal(found["weight"], rows) and torch.equal(found["bias"], rows[:, 0] - 5) and len(found) == 2


def test_a_checkpoint_is_exported_as_a_checkpoint(tmp_path, monkeypatch, capsys):
    """The folder says what it is: complete.json belongs to a checkpoint."""
    (tmp_path / "complete.json").write_text("{}")
    asked = []
    monkeypatch.setattr(export_classifier, "classifier_in_checkpoint",
                        lambda folder, dim: asked.append(folder) or {"weight": torch.ones(4, 2)})
    monkeypatch.chdir(tmp_path)
    run(monkeypatch, export_classifier, "-f", tmp_path, "-o", "c.npy")
    assert capsys.readouterr().out.splitlines()[-1] == f"wrote {tmp_path.resolve()}/c.npy"
    assert asked == [tmp_path] and np.load(tmp_path / "c.npy").shape == (4, 2)
