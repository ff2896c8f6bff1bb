"""The credible marks and the class means against plain loops, with labels in any order."""

import numpy as np
import pytest
from slow_statistics import random_features, slow_credible

from old_model import statistics
from old_model.statistics import blocks_in_order, class_blocks, class_counts, class_means, class_order, credible
from utils.errors import UserError


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("column_norm", [True, False])
@pytest.mark.parametrize("rows_per_block", [7, 1024])
def test_credible_equals_a_loop(share, column_norm, rows_per_block, monkeypatch):
    monkeypatch.setattr(statistics, "FILE_BLOCK", rows_per_block)
    rows, labels = random_features()
    assert credible(rows, labels, share, column_norm).tolist() == slow_credible(rows, labels, share, column_norm)


def test_decimal_shares_are_not_rounded_up():
    rows, _ = random_features(n=25, count=1)
    assert credible(rows, np.zeros(25, int), 0.56).sum() == 14


def test_class_means_equal_a_loop():
    rows, labels = random_features(1)
    for label, mean in enumerate(class_means(rows, labels)):
        np.testing.assert_allclose(mean, np.mean([r.astype(float) for r, c in zip(rows, labels, strict=True)
                                                  if c == label], axis=0))


@pytest.mark.parametrize("rows", [1, 7, 50, 1000])
def test_blocks_cover_every_image_once_in_class_order(rows):
    labels = random_features(2)[1]
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
    monkeypatch.setattr(statistics, "FILE_BLOCK", rows)
    array = random_features(3)[0]
    found = [(part.start, block.clone().numpy()) for part, block in blocks_in_order(array, unit=True, words="")]
    assert [start for start, _ in found] == list(range(0, 200, rows))
    np.testing.assert_allclose(np.concatenate([block for _, block in found]),
                               array / np.linalg.norm(array.astype(float), axis=1, keepdims=True))


def test_images_by_class_and_value():
    draw = np.random.default_rng(4)
    labels, values = draw.integers(0, 50, 999), draw.random(999).round(2)           # with ties: in the order of the images
    assert class_order(labels, values).tolist() == np.lexsort((values, labels)).tolist()
    assert class_order(labels, np.zeros(999)).tolist() == np.argsort(labels, kind="stable").tolist()


@pytest.mark.parametrize("labels, words", [([0, 2], "class 1 has no image .1 of 3"), ([-1, 0], "from 0 up"), ([], "none"),
                                           ([0, 10**12], "class 1 has no image")])
def test_labels_with_gaps_are_refused(labels, words):
    with pytest.raises(UserError, match=words):
        class_counts(np.array(labels, int), "label.npy")
