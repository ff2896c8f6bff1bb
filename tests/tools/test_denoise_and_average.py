"""The credible marks and the prototypes against plain loops, in any label order, and through the command line."""

import hashlib
import json
import math
import subprocess
from pathlib import Path

import numpy as np
import pytest
from processes import run_script

from tools.get_feature.denoise_credible import credible
from tools.get_feature.get_avg_feature import class_means
from utils import classes
from utils.classes import class_blocks, class_counts
from utils.errors import UserError

ROOT = Path(__file__).resolve().parents[2]


def features(seed: int = 0, n: int = 200, count: int = 9) -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(seed)
    labels = np.concatenate([np.arange(count), draw.integers(0, count, n - count)])
    return draw.standard_normal((n, 5)).astype(np.float32) * draw.uniform(1, 9, (n, 1)).astype(np.float32), labels


def slow_credible(rows: np.ndarray, labels: np.ndarray, share: float, column_norm: bool) -> list[bool]:
    rows = [[v / math.sqrt(sum(w * w for w in row)) for v in row] for row in rows.astype(float).tolist()]
    if column_norm:
        norms = [math.sqrt(sum(row[j] ** 2 for row in rows)) for j in range(5)]
        rows = [[v / norm for v, norm in zip(row, norms, strict=True)] for row in rows]
    mask = [False] * len(rows)
    for label in set(labels.tolist()):
        images = [i for i in range(len(rows)) if labels[i] == label]
        mean = [sum(rows[i][j] for i in images) / len(images) for j in range(5)]
        images.sort(key=lambda i: sum((v - m) ** 2 for v, m in zip(rows[i], mean, strict=True)))
        for i in images[:math.ceil(round(share * len(images), 6))]:
            mask[i] = True
    return mask


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("column_norm", [True, False])
def test_credible_equals_a_loop(share, column_norm):
    rows, labels = features()
    assert credible(rows, labels, share, column_norm).tolist() == slow_credible(rows, labels, share, column_norm)


def test_decimal_shares_are_not_rounded_up():
    rows, _ = features(n=25, count=1)
    assert credible(rows, np.zeros(25, int), 0.56).sum() == 14


def test_class_means_equal_a_loop():
    rows, labels = features(1)
    for label, mean in enumerate(class_means(rows, labels)):
        np.testing.assert_allclose(mean, np.mean([r.astype(float) for r, c in zip(rows, labels, strict=True)
                                                  if c == label], axis=0))


@pytest.mark.parametrize("rows", [1, 7, 50, 1000])
def test_blocks_cover_every_image_once_in_class_order(rows):
    labels = features(2)[1]
    counts = class_counts(labels, "labels")
    seen, walked = [], []
    for part, images, starts in class_blocks(labels, counts, rows):
        assert len(images) <= rows or part.stop - part.start == 1
        walked += range(part.start, part.stop)
        for label, begin in zip(range(part.start, part.stop), starts, strict=True):
            assert (labels[images[begin:begin + counts[label]]] == label).all()
        seen += images.tolist()
    assert walked == list(range(9)) and sorted(seen) == list(range(200))


@pytest.mark.parametrize("rows", [1, 7, 10 ** 6])
def test_blocks_in_the_order_of_the_file(rows, monkeypatch):
    monkeypatch.setattr(classes, "IN_CACHE", rows)
    array = features(3)[0]
    found = [(part.start, block.clone().numpy()) for part, block in classes.blocks_in_order(array, unit=True, words="")]
    assert [start for start, _ in found] == list(range(0, 200, rows))
    np.testing.assert_allclose(np.concatenate([block for _, block in found]),
                               array / np.linalg.norm(array.astype(float), axis=1, keepdims=True))


def test_images_by_class_and_value():
    draw = np.random.default_rng(4)
    labels, values = draw.integers(0, 50, 999), draw.random(999).round(2)           # with ties: in the order of the images
    assert classes.class_order(labels, values).tolist() == np.lexsort((values, labels)).tolist()
    assert classes.class_order(labels, np.zeros(999)).tolist() == np.argsort(labels, kind="stable").tolist()


@pytest.mark.parametrize("labels, words", [([0, 2], "class 1 has no image .1 of 3"), ([-1, 0], "from 0 up"), ([], "none"),
                                           ([0, 10**12], "class 1 has no image")])
def test_labels_with_gaps_are_refused(labels, words):
    with pytest.raises(UserError, match=words):
        class_counts(np.array(labels, int), "label.npy")


def command(tmp_path, script: str, *args: str) -> subprocess.CompletedProcess:
    return run_script(ROOT / "tools/get_feature" / script, *args, "--feature-save", tmp_path)


def test_command_line(tmp_path):
    rows, labels = features()
    folder = tmp_path / "OPclass"
    folder.mkdir()
    np.save(folder / "f5_r18_arc_class70_feature.npy", rows)
    np.save(folder / "f5_r18_arc_class70_label.npy", labels)
    (folder / "f5_r18_arc_class70_feature.json").write_text('{"model": "m", "records": "r"}')
    assert command(tmp_path, "denoise_credible.py", "--T", "0.29", "--SD", "f5_r18_arc_class70").returncode == 0
    mask = np.load(folder / "f5_r18_arc_class70_credible_ratio_29_feature.npy")
    assert mask.tolist() == slow_credible(rows, labels, 0.29, True)
    origin = json.loads((folder / "f5_r18_arc_class70_credible_ratio_29_feature.json").read_text())
    sums = {key: origin.pop(key) for key in ("bytes", "quick", "sha256")}
    assert origin == {"model": "m", "records": "r", "T": 0.29, "column_norm": True}
    written = (folder / "f5_r18_arc_class70_credible_ratio_29_feature.npy").read_bytes()
    assert (sums["bytes"], sums["sha256"]) == (len(written), hashlib.sha256(written).hexdigest())
    assert command(tmp_path, "get_avg_feature.py", "--SD", "f5_r18_arc_class70").returncode == 0
    prototypes = np.load(folder / "f5_r18_arc_class70_avg_feature.npy")
    assert prototypes.dtype == np.float32 and np.linalg.norm(prototypes, axis=1) == pytest.approx(np.ones(9))

    before = sorted(folder.iterdir())
    for args, words in ((["--SD", "f5_r18_arc_class70", "--T", "1.5"], "--T must be in (0, 1]"),
                        (["--SD", "f5_r18_arc_other"], "must end in one of class100"),
                        (["--SD", "f6_r18_arc_class70"], "get_feature.py")):
        done = command(tmp_path, "denoise_credible.py", *args)
        assert done.returncode == 1 and words in done.stderr and "Traceback" not in done.stderr
    np.save(folder / "f5_r18_arc_class70_label.npy", labels[:-1])
    done = command(tmp_path, "get_avg_feature.py", "--SD", "f5_r18_arc_class70")
    assert done.returncode == 1 and "200 rows" in done.stderr and "199" in done.stderr
    assert sorted(folder.iterdir()) == before
