"""Verdicts, gains, thresholds and flips worked by hand."""

import numpy as np
import pytest
from toy_evaluation import cell, hits, plain

from evaluation.cells import Measure
from evaluation.judgement import (
    average_compatibility,
    compare_cells,
    fixed_threshold,
    flips,
    overall,
    p_scores,
    right,
    update_gain,
)
from evaluation.protocol import Pairs

# --- criterion, gain, P, AC ------------------------------------------------------------------------------

def test_verdicts_rest_on_the_interval_of_the_difference():
    """The intervals of the two cells overlap in every figure, but that of their difference may exclude 0."""
    old = cell({"a": 0.5, "b": 0.5, "c": 0.5}, {name: [0.3, 0.5, 0.7] for name in "abc"})
    new = cell({"a": 0.6, "b": 0.4, "c": 0.55}, {"a": [0.4, 0.6, 0.8], "b": [0.2, 0.4, 0.6], "c": [0.5, 0.4, 0.8]})
    found = compare_cells(new, old, ["a", "b"])
    assert {name: entry["overall"] for name, entry in found.items()} == {"a": "better", "b": "worse", "c": None}
    assert {name: entry["verdict"] for name, entry in found.items()} == {"a": "better", "b": "worse", "c": "undecided"}
    assert {name: entry["criterion"] for name, entry in found.items()} == {"a": True, "b": False, "c": True}
    assert found["a"]["interval"] == pytest.approx((0.1, 0.1)) and found["c"]["interval"] == pytest.approx((-0.09, 0.195))
    assert compare_cells(new, old, [], few=["a"])["a"]["verdict"] == "undecided"
    without = compare_cells(cell(new.values), cell(old.values), ["a"])
    assert [entry["verdict"] for entry in without.values()] == ["better", "worse", "better"]


@pytest.mark.parametrize("words, expected", [
    (["better", "undecided"], "compatible"), (["better", "worse"], "better in some, worse in others"),
    (["worse", "undecided"], "not compatible"), (["undecided"], "undecided")])
def test_the_overall_verdict(words, expected):
    assert overall({str(i): {"overall": word} for i, word in enumerate([*words, None])}) == expected


def test_the_overall_verdict_on_ten_figures_needs_wider_intervals():
    """Each of ten figures is better in 98 % of the samples: enough for one figure, but one of ten may be so by chance."""
    old = cell({str(i): 0.5 for i in range(10)}, {str(i): np.full(1000, 0.5) for i in range(10)})
    drawn = {name: 0.5 + np.r_[np.full(20, -0.01), np.full(980, 0.1)] for name in old.values}
    found = compare_cells(cell(dict.fromkeys(old.values, 0.6), drawn), old, list(old.values))
    assert {entry["verdict"] for entry in found.values()} == {"better"}
    assert {entry["overall"] for entry in found.values()} == {"undecided"}


def test_gain_and_p_scores_by_hand():
    old, cross = cell({"a": 0.60, "b": 0.50, "c": 0.9}), cell({"a": 0.65, "b": 0.45, "c": 0.95})
    new, paragon = cell({"a": 0.88, "b": 0.70, "c": 0.9}), cell({"a": 0.80, "b": 0.70, "c": 0.9})
    gains = update_gain(cross, old, paragon)
    assert gains["a"] == pytest.approx(0.25) and gains["b"] == pytest.approx(-0.25)     # 5 of 20 points; 5 lost of 20
    assert np.isnan(gains["c"])                                                         # the paragon is no better than the old
    found = p_scores(gains, new, paragon)
    assert found["P_comp"] == pytest.approx(50.0)           # sigmoid(1/4) + sigmoid(-1/4) = 1
    assert found["P_up"] == pytest.approx(50 * (1 / (1 + np.exp(-0.1)) + 0.5))          # 0.08 / 0.80, and 0
    assert found["P_1"] == pytest.approx(2 / (1 / found["P_comp"] + 1 / found["P_up"]))
    assert np.isnan(p_scores({"a": np.nan}, new, paragon)["P_1"])


def test_average_compatibility_by_hand():
    """(2,1) and (3,1) are above the older model alone, (3,2) is not; a pair with different dimensions has no cell."""
    values = {("1", "1"): 0.5, ("2", "2"): 0.6, ("3", "3"): 0.7, ("2", "1"): 0.55, ("3", "1"): 0.51, ("3", "2"): 0.6}
    matrix = {pair: cell({"m": value}) for pair, value in values.items()}
    assert average_compatibility(matrix, ["1", "2", "3"], "m") == pytest.approx(2 / 3)
    del matrix["3", "1"]
    assert average_compatibility(matrix, ["1", "2", "3"], "m") == pytest.approx(1 / 3)


# --- fixed threshold and flips ---------------------------------------------------------------------------

def test_thresholds_of_today_by_hand():
    """Ten impostor pairs score 0.0 ... 0.9 in the old system: at FAR 0.1 its threshold is 0.8."""
    same = np.arange(14) >= 10
    evaluation = plain(Pairs(np.zeros(14, int), np.zeros(14, int), same), [0, 1], [0])
    old = cell({}, scores=np.array([*np.arange(10) / 10, 0.95, 0.85, 0.75, 0.05]))
    cross = cell({}, scores=np.array([*np.arange(10) / 10 + 0.05, 0.81, 0.79, 0.7, 0.9]))
    row, = fixed_threshold(evaluation, old, cross)["1:1"]
    assert (row["rate"], row["threshold"], row["old"]) == ("1e-1", 0.8, 0.5)
    assert (row["errors"], row["of"], row["mixed rate"], row["mixed"]) == (2, 10, 0.2, 0.5)     # 0.85, 0.95; 0.81 and 0.9
    assert row["new threshold"] == pytest.approx(0.85) and row["old rate"] == 0.1


def test_a_mate_above_the_threshold_is_right_only_if_nobody_is_above_the_mate():
    mates = hits([.9, .9, .4, -np.inf, -np.inf], [.1, .95, .1, .5, .6], [1, 2, 1, 0, 0])
    assert right(mates, .5).tolist() == [True, False, False, True, False]


def test_search_thresholds_and_flips_by_hand():
    """Probes 0 - 3 are mated, 10 non-mated ones score 0.0 ... 0.9: at FPIR 1e-1 the threshold is 0.9, the highest."""
    nonmated = np.arange(10) / 10
    old = cell({}, hits={"gallery": hits([0.95, 0.92, 0.5, 0.99] + [-np.inf] * 10, [0.1, 0.1, 0.6, 0.2, *nonmated],
                                         [1, 1, 2, 1] + [0] * 10)})
    cross = cell({}, hits={"gallery": hits([0.91, 0.85, 0.95, 0.5] + [-np.inf] * 10, [0.1, 0.1, 0.6, 0.7, *nonmated[:-1], 0.93],
                                           [1, 1, 1, 2] + [0] * 10)})
    evaluation = plain(None, [0, 1, 2, 3, 4], [0, 1, 2, 3] + [7] * 10)
    row, = fixed_threshold(evaluation, old, cross)["1:N"]
    assert row["threshold"] == [pytest.approx(0.9)] and row["new threshold"] == [pytest.approx(0.93)]
    assert (row["old"], row["mixed"], row["mixed rate"], row["errors"], row["of"]) == (0.75, 0.5, 0.1, 1, 10)
    assert row["old rate"] == 0                             # the highest non-mated score is at the threshold, not above it
    counts, rows = flips(evaluation, old, cross, None, "1e-1")
    assert counts == {"top-1": {"decisions": 4, "negative": 1, "positive": 1},          # probe 3 lost, probe 2 gained
                      "FPIR 1e-1, mated probes": {"decisions": 4, "negative": 2, "positive": 1},     # 1 and 3 lost, 2 gained
                      "FPIR 1e-1, non-mated probes": {"decisions": 10, "negative": 1, "positive": 0}}      # 13 let in
    assert [(r["judged by"], r["flip"], r["probe"]) for r in rows] == [
        ("top-1", "positive", 2), ("top-1", "negative", 3), ("FPIR 1e-1, mated probes", "negative", 1),
        ("FPIR 1e-1, mated probes", "positive", 2), ("FPIR 1e-1, mated probes", "negative", 3),
        ("FPIR 1e-1, non-mated probes", "negative", 13)]
    lost = rows[1]
    assert (lost["subject"], lost["old rank"], lost["new rank"], lost["mated"], lost["gallery"]) == (3, 1, 2, True, "gallery")
    assert (lost["old mate"], lost["new mate"], lost["old other"], lost["new other"]) == pytest.approx((0.99, 0.5, 0.2, 0.7))


def test_pairs_that_flip_are_counted():
    same = np.array([1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], bool)
    evaluation = plain(Pairs(np.zeros(13, int), np.zeros(13, int), same), [0], [0])
    old = cell({}, scores=np.array([0.95, 0.85, 0.5, *np.arange(10) / 10]))     # at FAR 1e-1 the threshold is 0.8
    new = cell({}, scores=np.array([0.7, 0.9, 0.9, *np.arange(9) / 10, 0.8]))   # the impostor pair of 0.9 was accepted
    counts, _ = flips(evaluation, old, new, "1e-1", None)
    assert counts["FAR 1e-1, genuine pairs"] == {"decisions": 3, "negative": 1, "positive": 1}
    assert counts["FAR 1e-1, impostor pairs"] == {"decisions": 10, "negative": 0, "positive": 1}


def test_the_same_model_twice_changes_nothing():
    """No flip, no figure better or worse; at the old threshold the rates are the old system's own, at most the nominal ones."""
    draw = np.random.default_rng(8)
    enrol, verify = (side.ravel() for side in np.meshgrid(np.arange(20), np.arange(200)))
    owner = draw.integers(0, 30, 200)
    evaluation = plain(Pairs(enrol, verify, enrol == owner[verify]), list(range(20)), owner.tolist())
    same = Measure(evaluation, 30, 0, "cpu")(*(draw.standard_normal((n, 6)).astype(np.float32) for n in (20, 200)), resample=True)
    assert {entry["verdict"] for entry in compare_cells(same, same, evaluation.reliable()).values()} == {"undecided"}
    for rows in fixed_threshold(evaluation, same, same).values():
        for row in rows:
            assert row["mixed rate"] == row["old rate"] <= float(row["rate"]) and row["mixed"] == row["old"]
            assert row["new threshold"] == row["threshold"]
    counts, rows = flips(evaluation, same, same, "1e-1", "1e-1")
    assert rows == [] and all(entry["negative"] == entry["positive"] == 0 for entry in counts.values())
