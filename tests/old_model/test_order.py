"""Rows in another order than their labels are seen without a model; codes, zeros and NaN are refused."""

import os
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from old_model import order
from old_model.features import OldFeatures
from old_model.names import artefact
from old_model.order import nearest_own, order_of_rows, sample
from tools.get_feature import denoise_credible, get_avg_feature
from utils.errors import UserError
from utils.origin import save_array

SD = "f8_r18_arc_data70"
IMAGES = 240


def people(classes: int = 40, each: int = 6, noise: float = 0.5) -> tuple[np.ndarray, np.ndarray]:
    """Features of ``each`` images of each class, around a centre of its own."""
    draw = np.random.default_rng(3)
    labels = np.repeat(np.arange(classes), each)
    rows = draw.standard_normal((classes, 8))[labels] + noise * draw.standard_normal((len(labels), 8))
    return (rows * draw.uniform(1, 9, (len(labels), 1))).astype(np.float32), labels


def slow_share(rows: np.ndarray, labels: np.ndarray) -> float:
    """Rows nearest, by cosine, to the mean of the other rows of their class: a float64 loop."""
    unit = [row / np.sqrt((row * row).sum()) for row in rows.astype(np.float64)]
    hits = 0
    for i, row in enumerate(unit):
        cosine = {}
        for label in set(labels.tolist()):
            mean = sum(unit[j] for j in range(len(unit)) if labels[j] == label and j != i)
            cosine[label] = row @ mean / np.sqrt(mean @ mean)
        hits += max(cosine, key=cosine.get) == labels[i]
    return hits / len(unit)


def test_the_share_is_that_of_a_loop():
    """All rows are sampled here.  Noise of the size of the centres: the share is neither 0 nor 1."""
    rows, labels = people(noise=0.8)
    found = order_of_rows(rows, labels)
    assert (found.rows, found.classes) == (IMAGES, 40) and found.share == pytest.approx(slow_share(rows, labels), abs=1 / IMAGES)
    assert 0.2 < found.share < 0.9 and found.chance == pytest.approx(1 / 40, abs=0.01) and found.misplaced is None


def exchange_halves(rows):
    """Two files of two machines put together in the wrong order."""
    return np.concatenate([rows[101:], rows[:101]])


def permute(rows):
    return np.random.default_rng(4).permutation(rows)


def permute_the_last_half(rows):
    return np.concatenate([rows[:IMAGES // 2], permute(rows[IMAGES // 2:])])


@pytest.mark.parametrize("change, words", [
    (permute, "all rows"), (lambda rows: np.repeat(rows[:1], IMAGES, 0), "all rows"), (exchange_halves, "the first images"),
    (lambda rows: rows[np.arange(IMAGES) * 7 % IMAGES], "all rows"),
    (lambda rows: rows.reshape(8, 30, 8).swapaxes(0, 1).reshape(-1, 8), "all rows"),
    (permute_the_last_half, "rows 150 to 179, rows 180 to 209"), (lambda rows: np.roll(rows, 1, 0), "the first images"),
    (lambda rows: np.roll(rows, -1, 0), "the last images"),
])
def test_rows_that_are_in_another_order_are_named(change, words):
    rows, labels = people()
    assert order_of_rows(rows, labels).misplaced is None
    assert order_of_rows(change(rows), labels).misplaced.find(words) >= 0


def test_a_random_order_is_seen_however_it_falls():
    """Half of the random orders give a share above the mean of random orders."""
    rows, labels = people()
    found = [order_of_rows(np.random.default_rng(seed).permutation(rows), labels) for seed in range(20)]
    assert {one.misplaced for one in found} == {"all rows"} and any(one.share > one.chance for one in found)


def test_records_in_any_order_are_in_order():
    rows, labels = people()
    place = np.random.default_rng(5).permutation(IMAGES)
    assert order_of_rows(rows[place], labels[place]).misplaced is None
    assert order_of_rows(np.roll(rows[place], 1, 0), labels[place]).misplaced == "all rows"


def test_few_rows_are_not_judged():
    for classes, each in ((2, 2), (1, 50), (60, 1)):
        rows, labels = people(classes, each)
        found = order_of_rows(rows, labels)
        assert found.misplaced is None and ("too few" in str(found) or "fewer than two classes" in str(found))


def test_few_rows_of_a_part_are_no_evidence(monkeypatch):
    """A weak model: in a part with two sampled rows both are often missed."""
    monkeypatch.setattr(order, "PARTS", IMAGES // 2)
    rows, labels = people(noise=0.8)
    assert order_of_rows(rows, labels).misplaced is None


def test_the_sample_of_a_large_set():
    """At most 8 images of 128 classes, the first and the last of each among them; classes of one image are left out."""
    labels = np.repeat(np.arange(1000), np.arange(1000) % 12)
    rows, owner, ends = sample(labels, np.random.default_rng(0))
    assert (np.diff(rows) > 0).all() and len(set(owner)) == 128 and len(set(labels[rows])) == 128
    for number in range(128):
        mine = rows[owner == number]
        everyone = np.flatnonzero(labels == labels[mine[0]])
        assert len(mine) == min(8, len(everyone)) > 1 and set(mine) <= set(everyone)
        assert mine[ends[owner == number] == "first"] == everyone[0] and mine[ends[owner == number] == "last"] == everyone[-1]


def test_equal_rows_are_no_evidence():
    assert not nearest_own(np.ones((6, 3), np.float32) / 3**.5, np.repeat([0, 1], 3)).any()


def save(folder: Path, rows: np.ndarray, labels: np.ndarray) -> None:
    for kind, array in (("feature", rows), ("label", labels)):
        save_array(artefact(str(folder), SD, kind), array, {})


TOOLS = pytest.mark.parametrize("tool", [denoise_credible, get_avg_feature])


@pytest.fixture
def tool_run(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["tool.py", "--SD", SD, "--feature-save", str(tmp_path)])
    return tmp_path


@TOOLS
def test_the_tools_of_step_2_warn(tool, tool_run, capsys):
    rows, labels = people()
    save(tool_run, rows, labels)
    tool.main()
    said = capsys.readouterr()
    assert said.err == "" and said.out.splitlines()[-1].startswith(f"wrote {tool_run.resolve()}/OPdata/{SD}_")
    save(tool_run, permute(rows), labels)
    tool.main()
    assert "feature.npy: all rows look as if they were in another order than the labels" in capsys.readouterr().err


def zero_row(rows):
    rows[200] = 0


def nan(rows):
    rows[7, 3] = np.nan


@TOOLS
@pytest.mark.parametrize("change, words", [
    (lambda rows: (rows * 10).astype(np.int8), "with whole numbers only"),
    (lambda rows: (rows * 10 + 128).clip(0, 255).astype(np.uint8), "with whole numbers only"),
    (lambda rows: np.rint(rows * 10 + 40), r"float32 \[240, 8\] with whole numbers only, from -.* - offset\) \* scale"),
    (lambda rows: rows > 0, "with whole numbers only"), (np.zeros_like, "row 0 of the old features is zeros .240 of 240"),
    (zero_row, "row 200 of the old features is zeros .1 of 240"), (nan, "row 7 of the old features holds NaN"),
])
def test_codes_zeros_and_nan_are_refused(tool, tool_run, change, words):
    rows, labels = people()
    changed = change(rows)
    save(tool_run, rows if changed is None else changed, labels)
    with warnings.catch_warnings(), pytest.raises(UserError, match=words):
        warnings.simplefilter("ignore")
        tool.main()


def test_a_training_refuses_codes_and_rows_that_were_never_written(tmp_path):
    rows, labels = people()
    file = artefact(str(tmp_path), SD, "feature")
    save(tmp_path, np.rint(rows * 10 + 40), labels)
    with pytest.raises(UserError, match="with whole numbers only"):
        OldFeatures(file, images=IMAGES, dim=8)
    for change in (zero_row, nan):
        rows, _ = people()
        change(rows)
        save(tmp_path, rows, labels)
        old = OldFeatures(file, images=IMAGES, dim=8)
        old[torch.tensor([0, 1])]
        with pytest.raises(UserError, match=f"the feature of image {200 if change is zero_row else 7} is zeros, NaN"):
            old[torch.tensor([0, 200, 7])[[0, 1 if change is zero_row else 2]]]


def test_a_file_that_is_cut_under_a_training_ends_it_with_a_sentence(tmp_path):
    """Not by SIGBUS; and a file that was replaced or removed is no reason to end: its bytes are there until it is closed."""
    rows, labels = people()
    file = artefact(str(tmp_path), SD, "feature")
    save(tmp_path, rows, labels)
    old = OldFeatures(file, images=IMAGES, dim=8)
    save(tmp_path, rows[:1], labels)
    assert old[torch.tensor([239])].shape == (1, 8)
    file.unlink()
    assert old[torch.tensor([239])].shape == (1, 8)
    save(tmp_path, rows, labels)
    old = OldFeatures(file, images=IMAGES, dim=8)
    os.truncate(file, 500)
    with pytest.raises(UserError, match="has 500 bytes now and had 7808 when it was opened"):
        old[torch.tensor([239])]
