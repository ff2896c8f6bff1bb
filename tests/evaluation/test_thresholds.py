"""Today's threshold and flips worked by hand."""

import numpy as np
import pytest
from toy_evaluation import cell, hits, plain

from evaluation.cells import Measure
from evaluation.judgement import compare_cells
from evaluation.protocol import Pairs
from evaluation.thresholds import advice, fixed_threshold, flips, mean_thresholds, operating_points, right, thresholds_of
from evaluation.trainings import Trainings


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


def test_operating_points_rest_on_enough_errors_and_lie_in_their_intervals():
    """400 impostor pairs score k / 1000: 40 of them are above 0.359 (FAR 0.1); 4 are too few.  50 of 100 mates are above it.

    The bootstrap samples of people are those of loops: sorted scores of the pairs, each as often as both people are drawn.
    """
    draw = np.random.default_rng(0)
    owner, same = draw.integers(0, 20, 500), np.arange(500) >= 400
    pairs = Pairs(np.where(same, owner, (owner + 1) % 20), np.arange(500), same)
    evaluation = plain(pairs, list(range(20)), owner.tolist())
    scores = np.r_[draw.permutation(400) / 1000, np.repeat([0.359, 0.3590005, 0.37, 0.9], 25)].astype(np.float32)
    measure = Measure(evaluation, 50, 3, "cpu")
    features = np.eye(20, dtype=np.float32)
    measured = measure(features, features[owner], True, scores)
    row, = operating_points(evaluation, measured)["thresholds"]
    assert row["far"] == 0.1 and row["threshold"] == pytest.approx(0.359) and row["tar"] == 0.5     # a tie is not accepted
    limits = []
    for weights in measure.weights:
        counted = [score for i, score in enumerate(scores[:400]) for _ in range(weights[pairs.enrol[i]] * weights[owner[i]])]
        limits.append(sorted(counted)[::-1][int(0.1 * len(counted) + 1e-9)])
    np.testing.assert_allclose(measured.limits["TAR@1e-1"], limits)
    assert [row["low"], row["high"]] == pytest.approx(np.quantile(limits, [0.025, 0.975]).tolist())
    unsure = operating_points(evaluation, Measure(evaluation, 0, 0, "cpu")(features, features[owner], True, scores))
    assert unsure["thresholds"] == [row | {"low": None, "high": None}]


def test_operating_points_of_a_search_are_means_over_the_galleries():
    nonmated = np.arange(300) / 300
    one = hits([0.95, 0.5] + [-np.inf] * 300, [0.1, 0.1, *nonmated], [1, 1] + [0] * 300)
    two = hits([0.95, 0.4] + [-np.inf] * 300, [0.1, 0.1, *(nonmated / 3)], [1, 1] + [0] * 300)
    evaluation = plain(None, [0, 1], [0, 1] + [7] * 300)
    row, = operating_points(evaluation, cell({}, hits={"one": one, "two": two}))["search"]
    assert row["fpir"] == 0.1 and row["tpir"] == 0.75           # 0.5 is below 270 / 300, 0.4 above a third of it
    assert row["threshold"] == pytest.approx((270 / 300 + 270 / 900) / 2, abs=1e-6) and row["low"] is None


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
    compared = compare_cells(Trainings([same]), Trainings([same]), evaluation.metrics(), .01, 30)
    assert {(entry["verdict"], entry["interval"]) for entry in compared.values()} == {("safe", (0, 0))}
    for rows in fixed_threshold(evaluation, same, same).values():
        for row in rows:
            assert row["mixed rate"] == row["old rate"] <= float(row["rate"]) and row["mixed"] == row["old"]
            assert row["new threshold"] == row["threshold"]
    counts, rows = flips(evaluation, same, same, "1e-1", "1e-1")
    assert rows == [] and all(entry["negative"] == entry["positive"] == 0 for entry in counts.values())


def row(old: float, new: float, mixed: float, errors: int, of: int = 1000) -> dict:
    return {"rate": "1e-1", "old": old, "new": new, "mixed": mixed, "errors": errors, "of": of, "threshold": .3,
            "new threshold": .4}


@pytest.mark.parametrize("errors, mixed, action", [(100, .8, "keep"), (120, .8, "keep"), (121, .8, "set"), (50, .8, "keep"),
                                                   (50, .78, "set")])
def test_todays_threshold_is_kept_if_it_makes_no_more_errors_and_loses_no_more_than_the_margin(errors, mixed, action):
    """FAR 0.1 of 1000 pairs allows 100 errors, give or take two standard deviations of 10; 0.79 is the new TAR less a point."""
    found, = advice({"1:1": [row(.7, .8, mixed, errors)], "1:N": []}, [], ["TAR@1e-1", "top-1"], .01)
    assert found == {"metric": "TAR@1e-1", "action": action, "threshold": .3, "new threshold": .4, "entries": None}


@pytest.mark.parametrize("errors, entries", [(100, None), (121, None), (122, .5), (78, .5), (79, None)])
def test_re_embedded_entries_need_a_threshold_of_their_own_if_their_errors_differ(errors, entries):
    of_entries = [{"protocol": "1:N", "rate": "1e-1", "threshold": .9, "errors": 0, "of": 1000},
                  {"protocol": "1:1", "rate": "1e-1", "threshold": .5, "errors": errors, "of": 1000}]
    found, = advice({"1:1": [row(.7, .8, .8, 100)], "1:N": []}, of_entries, ["TAR@1e-1"], .01)
    assert found["entries"] == entries


def test_the_threshold_of_re_embedded_entries_by_hand():
    """Impostor pairs score 0.0 to 0.9 on old entries and 0.2 higher on new ones: at FAR 0.1 the thresholds are 0.8 and 1.0."""
    same = np.arange(12) >= 10
    evaluation = plain(Pairs(np.zeros(12, int), np.zeros(12, int), same), [0, 1], [0])
    one = cell({}, scores=np.array([*np.arange(10) / 10, 1, 1]))
    found, = thresholds_of(evaluation, one, cell({}, scores=one.scores + .2))
    assert found == {"protocol": "1:1", "rate": "1e-1", "threshold": pytest.approx(1.0), "of": 10, "errors": 3}    # 0.9 1.0 1.1


def test_rows_of_several_trainings_are_averaged():
    one, two = row(.5, .6, .4, 10), row(.7, .8, .6, 13) | {"threshold": .5}
    found = mean_thresholds([{"1:1": [one, one | {"rate": "1e-2"}], "1:N": []}, {"1:1": [two], "1:N": []}])
    assert found == {"1:1": [{"rate": "1e-1", "old": pytest.approx(.6), "new": pytest.approx(.7), "mixed": pytest.approx(.5),
                              "errors": 12, "of": 1000, "threshold": pytest.approx(.4), "new threshold": pytest.approx(.4)}],
                     "1:N": []}
