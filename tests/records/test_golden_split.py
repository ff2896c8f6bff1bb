"""The split of a training set and the data set against the golden arrays 12_split and the record files of the public script."""

import numpy as np
import torch
from folders import golden_folder
from golden_arrays import golden

from records.faces import FaceRecords
from records.images import to_input
from records.split import split


def test_split(tmp_path):
    g = golden("12_split")
    source = golden_folder() / "split_tiny"
    train = FaceRecords(source / "train")
    assert np.array_equal(train.records.unpack(0)[0].label, g["train_header"])
    labels = np.stack([train.records.unpack(int(key))[0].label for key in train.keys])
    assert np.array_equal(labels, g["train_labels"])
    assert np.array_equal(np.bincount(train.labels()), g["counts"])
    split(train.path, 0.3, tmp_path)
    for name in ("30_class", "70_class", "30_data", "70_data"):
        for end in (".rec", ".idx"):
            file = f"train_part_{name}{end}"
            assert (tmp_path / file).read_bytes() == (source / file).read_bytes()
        percent, kind = name.split("_")
        key = kind + percent
        part = FaceRecords(tmp_path / f"train_part_{name}")
        header = part.records.unpack(0)[0]
        assert header.flag == g[f"{key}_header_flag"] and np.array_equal(header.label, g[f"{key}_header_label"])
        assert np.array_equal(part.records.keys, g[f"{key}_idx_file_order"])
        assert np.array_equal(part.keys, g[f"{key}_keys"])
        headers = [part.records.unpack(int(k))[0] for k in part.keys]
        for field in ("flag", "label", "id", "id2"):
            assert np.array_equal([getattr(h, field) for h in headers], g[f"{key}_{field}"])
        assert [part.jpeg(i) for i in range(len(part))] == [train.jpeg(k - 1) for k in g[f"{key}_source_key"]]


def test_data_set():
    g = golden("12_split")
    source = golden_folder() / "split_tiny"
    for name, file in (("train", "train"), ("class70", "train_part_70_class"), ("data30", "train_part_30_data")):
        data = FaceRecords(source / file)
        assert len(data) == g[f"ds_{name}_len"]
        assert np.array_equal(data.labels(), g[f"ds_{name}_labels"])
        assert np.array_equal([data[i][2] for i in range(len(data))], g[f"ds_{name}_index"])
    images = FaceRecords(source / "train").__getitems__([0, 1, 2])[0]
    assert np.abs(images.numpy().astype(int) - g["ds_train_first3_decoded_rgb"]).max() <= 2
    for name, flip in (("noflip", False), ("flip", True)):
        found = to_input(images, "cpu", torch.full((3,), flip)).numpy()
        assert np.abs(found - g[f"ds_train_first3_{name}"]).max() <= 2 / 127.5 + 1e-6
