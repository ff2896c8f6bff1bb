"""The bootstrap of a comparison: people are drawn, not rows; both cells of a difference see the same samples.

Expected figures are counted by hand or written out pair by pair from the weights of each sample.
"""

import numpy as np
import pytest
from toy_comparison import write_people
from toy_evaluation import plain

from evaluation.bootstrap import draw_weights, interval
from evaluation.cells import Measure
from evaluation.evaluation_set import read_evaluation
from evaluation.protocol import Pairs


def test_all_probes_of_a_person_are_taken_or_left_together():
    """Two people with 50 probes each, one always found and one never: a sample has 0, 50 or 100 % right, 1/4 1/2 1/4 of the time.

    Drawing rows instead would give about 40 to 60 %.
    """
    gallery, queries = np.eye(3, dtype=np.float32)[:2], np.eye(3, dtype=np.float32)[[0] * 50 + [2] * 50]
    found = Measure(plain(None, [7, 5], [7] * 50 + [5] * 50), 2000, 0, "cpu")(gallery, queries, resample=True)
    values, counts = np.unique(found.draws["top-1"], return_counts=True)
    assert found.values["top-1"] == .5 and values.tolist() == [0, .5, 1]
    assert counts / 2000 == pytest.approx([.25, .5, .25], abs=.04)      # four standard errors
    assert found.interval("top-1") == (0, 1)


def test_one_person_has_one_weight_on_both_sides_of_a_pair():
    """Rows of gallery and probes differ, 70 is in pairs but no probe, 90 in the gallery only: each sample written out."""
    draw = np.random.default_rng(1)
    gallery_labels, probe_labels = [50, 20, 90, 50, 10, 70, 20, 30], [20, 30, 50, 20, 10, 50, 30, 10, 20, 50, 40, 40]
    table = [(g, p, a == b) for g, a in enumerate(gallery_labels) for p, b in enumerate(probe_labels) if a != 90]
    pairs = Pairs(*(np.array(column) for column in zip(*table, strict=True)))
    gallery, query = (draw.standard_normal((n, 4)).astype(np.float32) for n in (8, 12))
    measure = Measure(plain(pairs, gallery_labels, probe_labels), 40, 3, "cpu")
    found = measure(gallery, query, resample=True)
    unit = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (gallery.astype(float), query.astype(float))]
    people = [10, 20, 30, 40, 50, 70]                           # those of probes and pairs, in the order of the weights
    assert measure.weights.shape == (40, 6)
    for weights, tar in zip(measure.weights, found.draws["TAR@1e-1"], strict=True):
        weight = dict(zip(people, weights.tolist(), strict=True))
        same, different = [], []
        for g, p, mated in table:
            a, b, score = gallery_labels[g], probe_labels[p], float(unit[0][g] @ unit[1][p])
            (same if mated else different).extend([score] * (weight[a] if mated else weight[a] * weight[b]))
        if not same or not different:
            assert np.isnan(tar)
            continue
        different.sort(reverse=True)
        threshold = different[int(len(different) * .1 + 1e-9)]
        assert tar == pytest.approx(np.mean(np.array(same) > threshold))


def test_a_sample_takes_as_many_people_as_there_are_and_each_as_likely_as_the_others():
    weights = draw_weights(6, 3000, seed=0)
    assert (weights.sum(1) == 6).all() and weights.mean(0) == pytest.approx(np.ones(6), abs=.08)
    assert weights.var(0) == pytest.approx(np.full(6, 5 / 6), rel=.15)  # multinomial: n p (1 - p), not one each
    assert (draw_weights(6, 50, seed=0) == weights[:50]).all() and (draw_weights(6, 50, seed=1) != weights[:50]).any()


def test_an_interval_leaves_out_two_and_a_half_percent_on_each_side():
    assert interval(np.arange(1001.0)) == pytest.approx((25, 975))
    assert interval(np.arange(1001.0), figures=10) == pytest.approx((2.5, 997.5))


def test_the_band_of_a_curve_is_the_interval_of_the_figure_at_the_same_rate():
    draw, owner = np.random.default_rng(2), np.arange(12)
    probes = np.repeat(owner, 3)
    enrol, verify = (side.ravel() for side in np.meshgrid(owner, np.arange(36)))
    evaluation = plain(Pairs(enrol, verify, enrol == probes[verify]), owner.tolist(), probes.tolist())
    centres = draw.standard_normal((12, 5))
    found = Measure(evaluation, 60, 0, "cpu")(centres.astype(np.float32), (centres[probes] + .8 * draw.standard_normal(
        (36, 5))).astype(np.float32), resample=True)
    for far, name in ((.01, "TAR@1e-2"), (.1, "TAR@1e-1")):
        at, = np.flatnonzero(np.isclose(found.curve["far"], far))
        low, high = found.curve["low"][at], found.curve["high"][at]
        assert (low, high) == pytest.approx(found.interval(name)) and low < high
        assert found.curve["tar"][at] == found.values[name]


def test_people_behind_a_figure_are_counted_not_rows(tmp_path):
    evaluation = read_evaluation(write_people(tmp_path / "data", 9, 20, 40), "IJBC")
    assert evaluation.subjects_behind() == {"TAR": 9, "top": 9, "TPIR": 9}
    assert evaluation.negatives() == {"1:1": 40, "1:N": 20}
