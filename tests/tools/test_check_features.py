"""tools/check on a training on features and on config.init: rows, faults and cost."""

from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
import torch
from feature_toys import D_IN, HIDDEN, new_features, settings_list, write_features, write_first_map
from method_toys import CLASSES, DIM, old_features

from engine import cost
from tools.check import check
from tools.check.report import Report
from utils.config import load_config


@pytest.fixture
def store(tmp_path) -> Path:
    (tmp_path / "store").mkdir()
    return write_features(tmp_path / "store")


def look(store: Path, out: Path, *more: str, every: bool = False) -> Report:
    config, *overrides = settings_list("L2", store, out, *more)
    return check.check(Namespace(config=config, overrides=overrides, ranks=2, all=every, script=None))


def rows(report: Report) -> dict[str, tuple[str, str]]:
    """{what: (found, verdict)}."""
    return {what: (found, verdict) for what, found, verdict in report.rows}


def test_a_right_training_is_ready(store, tmp_path):
    init = write_first_map(tmp_path / "first.npz")
    report = look(store, tmp_path / "out", f"init={init}")
    found = rows(report)
    assert report.problems() == 0, report
    assert f"{store}/OPclass/new_feature.npy: 48 images, {CLASSES} classes" in found["records"][0]
    assert "48 of 48 rows of 9 dimensions" in found["features"][0] and "lfw" in found["verification"][0]
    assert found["init"][0].startswith(f"init {init}: 2 of 2 tensors") and "lfw" not in found and "images" not in found
    assert "not read, if the run resumes" in rows(look(store, tmp_path / "out", f"init={init}", "resume=True"))["init"][0]


@pytest.mark.parametrize("file, function, what", [
    ("new_feature.npy", lambda x: np.where(np.arange(48)[:, None] == 7, np.nan, x), "features"),
    ("new_feature.npy", lambda x: x[::-1], "order of rows"),
    ("new_label.npy", lambda x: np.roll(x, 5), "order of rows"),
    ("new_label.npy", lambda x: x[:-1], "records"),
    ("new_label.npy", lambda x: np.zeros_like(x), "classes"),
])
def test_a_fault_is_a_row(file, function, what, store, tmp_path):
    np.save(store / "OPclass" / file, function(np.load(store / "OPclass" / file)))
    report = look(store, tmp_path / "out")
    assert rows(report)[what][1] == "wrong", report


def test_init_of_another_network_is_a_row(store, tmp_path):
    init = write_first_map(tmp_path / "mlp.npz", hidden=True)
    found, verdict = rows(look(store, tmp_path / "out", f"init={init}"))["init"]
    assert verdict == "wrong" and "needs network=mlp" in found
    assert rows(look(store, tmp_path / "out", f"init={tmp_path}/none.npz"))["init"][1] == "missing"


def test_all_rows_are_searched_only_if_asked(store, tmp_path, monkeypatch):
    monkeypatch.setattr("tools.check.record_rows.ROWS_WITHOUT_ALL", 5)
    assert "5 of 48 rows" in rows(look(store, tmp_path / "out"))["features"][0]
    assert "48 of 48 rows" in rows(look(store, tmp_path / "out", every=True))["features"][0]


def test_rows_in_another_order_than_their_labels_are_doubted(store, tmp_path):
    """Both files in another order than the labels, so only the classes show it."""
    draw = np.random.default_rng(0)
    labels = np.arange(1000) % 50
    centres, noise = draw.standard_normal((50, D_IN)), draw.standard_normal((1000, D_IN))
    features = (centres[labels] + 0.1 * noise)[draw.permutation(1000)].astype(np.float32)
    for name, array in (("new_feature", features), ("new_label", labels), ("other_feature", features[:, :DIM] + 0.01),
                        ("other_label", labels)):
        np.save(store / f"OPclass/{name}.npy", array)
    found, verdict = rows(look(store, tmp_path / "out", "old_feature=OPclass/other_feature.npy"))["features"]
    assert verdict == "warning" and "in another order than the labels" in found


def test_cost_by_hand(store, tmp_path):
    """Weights of linear: (9 + 1) * 6; of mlp in addition 9 * 256 + 256 + 256 * 6.  map.npz holds them once more."""
    for network, weights in (("linear", 60), ("mlp", 60 + D_IN * HIDDEN + HIDDEN + HIDDEN * DIM)):
        config, *overrides = settings_list("L2", store, tmp_path / "out", f"network={network}", "fp16=True")
        cfg = load_config(config, overrides)
        checkpoint = 4 * 2 * (2 * weights + CLASSES * DIM)
        left = 2 * checkpoint + 4 * (2 * weights + CLASSES * DIM)
        assert cost.training_bytes(cfg, CLASSES, 2) == (left, left + checkpoint)
        assert 4 * weights < cost.backbone_step_bytes(cfg) < 20 * 4 * (weights + 12 * (HIDDEN + DIM))


def test_features_are_read_at_norm_1_with_class_and_number(store):
    from old_model.feature_rows import FeatureRows
    from records.loader import ordered_loader

    faces = FeatureRows(store / "OPclass/new_feature.npy")
    batches = [[part.clone() for part in batch] for batch in ordered_loader(faces, 7, 0, 1, workers=3)]
    x, labels, index = (torch.cat(side) for side in zip(*batches, strict=True))
    expected = new_features() / np.linalg.norm(new_features().astype(np.float64), axis=1, keepdims=True)
    assert torch.equal(index, torch.arange(48)) and np.array_equal(labels, old_features()[1])
    assert x.dtype == torch.float32 and np.abs(x.numpy() - expected).max() < 1e-6
