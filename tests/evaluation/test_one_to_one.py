"""Verification figures against scikit-learn, plain loops and examples worked by hand."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score, roc_curve
from toy_evaluation import random_unit_rows

from evaluation import verification
from evaluation.bootstrap import SearchDraws
from evaluation.identification import Hits
from evaluation.protocol import Pairs
from evaluation.verification import Roc, one_to_one, pair_scores, public_roc


@pytest.mark.parametrize("cells", [1, 40, 10 ** 6])
def test_pair_scores_are_the_cosines_of_the_pairs(cells, monkeypatch):
    monkeypatch.setattr(verification, "SIMILARITIES_PER_BLOCK", cells)
    draw = np.random.default_rng(0)
    gallery, query = random_unit_rows(draw, 30, 8), random_unit_rows(draw, 30, 8)
    pairs = Pairs(draw.integers(3, 15, 200), draw.integers(10, 30, 200), None)
    expected = [float(gallery[a] @ query[b]) for a, b in zip(pairs.enrol, pairs.verify, strict=True)]
    np.testing.assert_allclose(pair_scores(gallery, query, pairs), expected, atol=1e-6)
    monkeypatch.setattr(verification, "MAX_SIMILARITIES_PER_PAIR", 0)           # few pairs among their rows: one by one
    monkeypatch.setattr(verification, "PAIRS_PER_BLOCK", 7)
    np.testing.assert_allclose(pair_scores(gallery, query, pairs), expected, atol=1e-6)


def test_tar_at_far_by_hand():
    """Ten impostor pairs score 0.0 ... 0.9, four genuine ones 0.95, 0.85, 0.75 and 0.05."""
    roc = Roc.of(np.array([*np.arange(10) / 10, 0.95, 0.85, 0.75, 0.05]), np.arange(14) >= 10)
    tar, threshold = roc.at(np.array([0.0, 0.1, 0.2, 0.5, 0.95, 1.0]))
    assert tar.tolist() == [0.25, 0.5, 0.75, 0.75, 1.0, 1.0]
    assert threshold.tolist() == [0.9, 0.8, 0.7, 0.4, 0.0, -np.inf]


@pytest.mark.parametrize("digits", [8, 1])          # 1: nearly every score is tied
def test_tar_at_far_is_the_best_of_all_operating_points(digits):
    draw = np.random.default_rng(2)
    same = draw.random(400) < 0.3
    scores = np.round(draw.standard_normal(400) + same, digits).astype(np.float32)
    fars = np.array([0.0, 1e-3, 0.01, 0.03, 0.1, 0.5, 1.0])
    far, tar, _ = roc_curve(same, scores, drop_intermediate=False)
    best = [tar[far <= x + 1e-12].max() for x in fars]
    roc = Roc.of(scores, same)
    np.testing.assert_allclose(roc.at(fars)[0], best, atol=1e-12)
    assert roc.auc() == pytest.approx(roc_auc_score(same, scores), abs=1e-9)


def test_a_threshold_accepts_no_more_than_it_promises():
    draw = np.random.default_rng(3)
    roc = Roc.of(np.round(draw.standard_normal(5000), 2), draw.random(5000) < 0.2)
    for far in (1e-3, 1e-2, 0.1):
        threshold = roc.at(np.array([far]))[1][0]
        assert (roc.different > threshold).mean() <= far


def test_binary_fractions_cost_no_false_accept():
    """0.29 * 100 is 28.999999999999996 in binary; the 29 accepts are allowed all the same."""
    roc = Roc(np.array([70.5]), np.arange(100.0))
    assert roc.at(np.array([0.29]))[0].tolist() == [1.0] and roc.at(np.array([0.28]))[0].tolist() == [0.0]


def test_public_reading_takes_the_nearest_kept_point():
    scores, same = np.array([0.9, 0.8, 0.7, 0.6, 0.5, 0.4]), np.array([1, 0, 1, 1, 0, 1], bool)
    tar, threshold, area = public_roc(scores, same, np.array([1e-6, 0.4, 0.9]))
    assert tar.tolist() == [0.25, 0.75, 1.0] and threshold[2] == 0.4
    assert area == pytest.approx(roc_auc_score(same, scores))


@pytest.mark.parametrize("sparse", [64, 0])         # by a product of matrices; pair by pair
def test_the_public_reading_sees_differences_that_float32_does_not(sparse, monkeypatch):
    """Twenty pairs with cosines 1 - 5e-11 i^2, all 1 in float32; from the best: 5 genuine, 1 impostor, 3 genuine, 8, 2 and 1.

    At FAR 0.1 (one impostor pair of ten) 8 of 10 genuine pairs are accepted. If all scores are equal, the curve has no point
    between (0, 0) and (1, 1), and the nearest one has TAR 0.
    """
    monkeypatch.setattr(verification, "MAX_SIMILARITIES_PER_PAIR", sparse)
    same = np.array([1] * 5 + [0] + [1] * 3 + [0] * 8 + [1] * 2 + [0], bool)
    query = np.stack([np.ones(20), 1e-5 * np.arange(1, 21)], 1).astype(np.float32)
    pairs = Pairs(np.zeros(20, np.int32), np.arange(20, dtype=np.int32), same)
    gallery = np.array([[1, 0]], np.float32)
    figures, arrays = one_to_one(gallery, query, pairs, public=True)
    assert figures["TAR"][-1] == 0.8 and arrays["scores"].dtype == np.float64
    genuine, impostor = np.flatnonzero(same), np.flatnonzero(~same)
    assert figures["auc"] == pytest.approx(np.mean([g < i for g in genuine for i in impostor]), abs=1e-12)
    scores = one_to_one(gallery, query, pairs)[1]["scores"]
    assert scores.dtype == np.float32 and public_roc(scores, same, np.array([0.1]))[0].tolist() == [0.0]


def test_figures_are_nan_if_the_data_is_too_small():
    draw = np.random.default_rng(4)
    features, same = random_unit_rows(draw, 60, 6), np.arange(1500) < 500
    pairs = Pairs(*draw.integers(0, 60, (2, 1500)).astype(np.int32), same)
    figures, arrays = one_to_one(features, features, pairs)
    assert np.isnan(figures["TAR"]).tolist() == [True, True, True, False, False, False]     # 1,000 negatives
    assert (figures["same"], figures["different"]) == (500, 1000)
    assert np.isnan(arrays["tar"]).sum() == (arrays["far"] < 0.000999).sum() > 0
    assert np.isfinite(one_to_one(features, features, pairs, public=True)[0]["TAR"]).all()


def test_the_gallery_is_the_first_column():
    gallery, query = np.eye(3, dtype=np.float32), np.eye(3, dtype=np.float32)[[1, 2, 0]]
    pairs = Pairs(np.array([1, 0], np.int32), np.array([0, 1], np.int32), np.array([True, False]))
    assert one_to_one(gallery, query, pairs)[1]["scores"].tolist() == [1.0, 0.0]


def test_scores_that_differ_by_rounding_are_equal():
    """Ten impostor pairs score 0.3 and 0.2 to 1e-7: what is equal to the threshold is not accepted, whatever the last bit is."""
    near = np.float32(.3) + np.array([-2e-7, -1e-7, 0, 1e-7, 2e-7], np.float32)
    roc = Roc.of(np.r_[near, np.full(5, .2, np.float32), near, [.301, .5]].astype(np.float32), np.arange(17) >= 10)
    assert roc.at(np.array([.1, .4, .5]))[0] == pytest.approx([2 / 7, 2 / 7, 1])
    assert roc.auc() == pytest.approx((2 * 1 + 5 * .75) / 7)                    # a tie counts half
    mated = Hits(np.r_[near, .301, np.full(5, -np.inf)].astype(np.float32), np.r_[np.zeros(6), near].astype(np.float32),
                 np.r_[np.ones(6, int), np.zeros(5, int)], 9)
    assert mated.tpir(np.array([.2, .8]))[0] == pytest.approx([1 / 6, 1 / 6])
    weights = np.ones((1, 11), np.int16)
    assert SearchDraws(np.arange(11), weights).at(mated)[0][0][3:] == pytest.approx([1 / 6, 1 / 6])


def test_a_pair_that_is_never_matched_is_below_every_threshold():
    rows = np.eye(3, dtype=np.float32)
    pairs = Pairs(np.arange(3), np.arange(3), np.array([True, True, False]), np.array([False, True, False]))
    assert pair_scores(rows, rows, pairs).tolist() == [1, -np.inf, 1]
