"""The figures of each bootstrap sample against pairs and probes repeated as often as they were drawn; intervals."""

import numpy as np
import pytest
from sklearn.metrics import roc_curve

from evaluation import bootstrap
from evaluation.bootstrap import PairDraws, SearchDraws, draw_weights, interval
from evaluation.identification import FPIRS, Hits
from evaluation.protocol import Pairs
from evaluation.verification import FARS


def test_a_sample_without_an_impostor_pair_has_no_tar():
    pairs = Pairs(np.array([0, 1, 2]), np.array([0, 1, 0]), np.array([True, True, False]))
    owner = np.arange(3)
    found = PairDraws(pairs, (owner, owner), np.array([[3, 0, 0], [1, 1, 1], [0, 3, 0]])).at(np.array([0.1, 0.2, 0.9]), FARS)[0]
    assert np.isnan(found[[0, 2]]).all() and (found[1] == 0).all()


@pytest.mark.parametrize("many, tail", [(10 ** 6, 0.3), (10, 0.3), (10, 0.01)])     # all sorted; the tail; a tail too short
def test_samples_of_pairs_equal_the_pairs_repeated(many, tail, monkeypatch):
    monkeypatch.setattr(bootstrap, "MIN_PAIRS_FOR_TAIL", many)
    draw = np.random.default_rng(0)
    owner = np.repeat(np.arange(12), 5)
    enrol, verify = draw.integers(0, 60, (2, 900))
    pairs = Pairs(enrol, verify, owner[enrol] == owner[verify])
    scores = np.round(draw.standard_normal(900) + pairs.same, 1).astype(np.float32)     # with ties
    weights = draw_weights(12, 6, seed=1)
    assert (weights.sum(1) == 12).all() and len(np.unique(weights, axis=0)) == 6
    found = PairDraws(pairs, (owner, owner), weights).at(scores, FARS, tail)[0]
    for w, row in zip(weights, found, strict=True):
        times = np.where(pairs.same, w[owner[enrol]], w[owner[enrol]] * w[owner[verify]])
        chosen = np.repeat(np.arange(900), times)
        far, tar, _ = roc_curve(pairs.same[chosen], scores[chosen], drop_intermediate=False)
        np.testing.assert_allclose(row, [tar[far <= x + 1e-12].max() for x in FARS], atol=1e-12)


def test_samples_of_probes_equal_the_probes_repeated():
    draw = np.random.default_rng(2)
    owner, weights = draw.integers(0, 15, 80), draw_weights(15, 8, seed=3)
    mated = draw.random(80) < 0.6
    one = Hits(np.where(mated, draw.random(80), -np.inf).round(1), draw.random(80).round(1),
               np.where(mated, draw.integers(1, 4, 80), 0), 5)
    two = Hits(np.where(mated, -np.inf, draw.random(80)), draw.random(80), np.where(mated, 0, draw.integers(1, 12, 80)), 5)
    found = SearchDraws(owner, weights).figures({"G1": one, "G2": two})
    for b, w in enumerate(weights):
        chosen = np.repeat(np.arange(80), w[owner])
        parts = [Hits(h.mate[chosen], h.other[chosen], h.rank[chosen], 5) for h in (one, two)]
        np.testing.assert_allclose(found["TPIR"][b], np.mean([h.tpir(FPIRS)[0] for h in parts], 0), atol=1e-12)
        for k in (1, 5, 10):
            expected = sum(h.within(k) for h in parts) / sum(h.mated.sum() for h in parts)
            assert found[f"top-{k}"][b] == pytest.approx(expected)


def test_interval_leaves_out_nan():
    assert interval(np.array([np.nan, 1.0, 2.0, np.nan])) == pytest.approx((1.025, 1.975))
    assert interval(np.array([np.nan])) is None and interval(np.zeros(0)) is None
    assert interval(np.arange(101.0), figures=5) == pytest.approx((0.5, 99.5))


def test_an_interval_holds_the_true_value_as_often_as_its_confidence():
    """Each subject has its own TAR. The intervals of about 190 of 200 data sets must hold the population's mean."""
    draw, inside = np.random.default_rng(5), 0
    for seed in range(200):
        skill = draw.random(40)                                 # mean 1/2
        owner = np.repeat(np.arange(40), 6)
        mate = (draw.random(240) < skill[owner]).astype(np.float32)
        found = Hits(mate, np.full(240, 0.5, np.float32), np.where(mate > 0.5, 1, 2), 9)
        low, high = interval(SearchDraws(owner, draw_weights(40, 200, seed)).figures({"G": found})["top-1"])
        inside += low <= 0.5 <= high
    assert 180 <= inside <= 198
