"""Words, answers, gains and P scores worked by hand."""

import numpy as np
import pytest
from scipy.stats import t as student
from toy_evaluation import cell

from evaluation.judgement import (
    average_compatibility,
    compare_cells,
    known_gains,
    overall,
    p_scores,
    update_gain,
    verdict,
)
from evaluation.trainings import Trainings

# --- words and answers -----------------------------------------------------------------------------------

def judged(new: dict, old: dict, counted: list[str], new_draws: dict | None = None, old_draws: dict | None = None) -> dict:
    """compare_cells of one training each, with a margin of one point and 101 people."""
    return compare_cells(Trainings([cell(new, new_draws)]), Trainings([cell(old, old_draws)]), counted, .01, 101)


def test_a_word_rests_on_the_interval_of_the_difference_in_the_same_samples():
    """The two cells go up and down by 20 points together: their own intervals overlap, the difference is 10 in each sample."""
    shared = np.array([-.2, 0, .2])
    found = judged({"a": .6, "b": .4, "c": .55}, dict.fromkeys("abc", .5), ["a", "b"],
                   {"a": .6 + shared, "b": .4 + shared, "c": [.5, .4, .8]}, {name: .5 + shared for name in "abc"})
    assert {name: entry["verdict"] for name, entry in found.items()} == {"a": "better", "b": "worse", "c": None}
    assert {name: entry["criterion"] for name, entry in found.items()} == {"a": True, "b": False, "c": True}
    assert found["a"]["interval"] == pytest.approx((.1, .1))
    half = student.ppf(1 - .05 / 2 / 2, 100) * np.std([.2, -.1, .1], ddof=1)        # two figures count; 101 people
    assert found["c"]["interval"] == pytest.approx((.05 - half, .05 + half))
    without = judged({"a": .6, "b": .4, "c": .495}, dict.fromkeys("abc", .5), ["a", "b", "c"])
    assert [entry["verdict"] for entry in without.values()] == ["better", "worse", "safe"]
    assert without["a"]["interval"] is None


@pytest.mark.parametrize("low, high, word", [
    (.001, .02, "better"), (0, .02, "safe"), (-.0099, .02, "safe"), (-.0099, -.001, "safe"), (-.01, .02, "undecided"),
    (-.01, -.001, "worse"), (-.5, -.4, "worse"), (-.5, 0, "undecided"), (-.5, .4, "undecided")])
def test_the_word_for_an_interval_with_a_margin_of_one_point(low, high, word):
    assert verdict((low + high) / 2, (low, high), .01) == word


@pytest.mark.parametrize("intervals, answer, decided", [
    ({"a": (.1, .2), "b": (-.005, .1)}, "better", "a"), ({"a": (-.003, .2), "b": (-.005, .1)}, "safe", "b"),
    ({"a": (.1, .2), "b": (-.3, -.1), "c": (-.2, -.15)}, "better in some, worse in others", "c"),
    ({"a": (-.1, .2), "b": (-.3, -.1)}, "worse", "b"),
    ({"a": (.1, .2), "b": (-.3, .1)}, "better in some, undecided in others", "b"),
    ({"a": (-.1, .2), "b": (-.3, .1), "c": (-.005, 0)}, "undecided", "b"), ({}, "undecided", None)])
def test_the_answer_and_the_figure_that_decided_it(intervals, answer, decided):
    compared = {name: {"verdict": verdict(sum(span) / 2, span, .01), "interval": span, "difference": sum(span) / 2}
                for name, span in intervals.items()}
    compared["grey"] = {"verdict": None, "interval": (-.9, -.8), "difference": -.85}        # counts for nothing
    assert overall(compared) == (answer, decided)


def test_ten_figures_need_wider_intervals_than_one():
    """Each of ten differences is 2.3 standard errors above 0: enough for one figure, but one of ten may be so by chance."""
    old, new = dict.fromkeys(map(str, range(10)), .5), dict.fromkeys(map(str, range(10)), .5 + .023)
    z = np.random.default_rng(0).standard_normal(4000)
    draws = {name: .5 + .01 * (z - z.mean()) / z.std() for name in old}
    still = {name: np.full(4000, .5) for name in old}
    assert judged(new, old, ["3"], draws, still)["3"]["verdict"] == "better"
    assert {entry["verdict"] for entry in judged(new, old, list(old), draws, still).values()} == {"safe"}


def test_what_would_decide():
    """The interval is 2 points wide on both sides of -0.5; half a point on both sides would be safe: 16 times the people."""
    z = np.random.default_rng(0).standard_normal(4000)
    draws = {"a": .5 + .01 * (z - z.mean()) / z.std(ddof=1)}
    entry = judged({"a": .495}, {"a": .5}, ["a"], draws, {"a": np.full(4000, .5)})["a"]
    assert entry["verdict"] == "undecided" and entry["needed"]["trainings"] is None
    assert entry["needed"]["people"] == pytest.approx(101 * (15.38 - 1), rel=.002)     # (1.961 x 1 / 0.5)^2: Student's t
    assert entry["to tell"]["people"] == 0                                         # 2 points: already
    far = judged({"a": .48}, {"a": .5}, ["a"], {"a": draws["a"] * 2}, {"a": np.full(4000, .5)})["a"]       # -2 +- 4: worse at 2
    assert far["verdict"] == "undecided" and far["needed"]["people"] == pytest.approx(101 * 3, rel=.05)


def test_a_gain_over_a_paragon_that_hardly_gains_means_nothing():
    """The paragon gains 0.2 points with a standard error of 1 (a), and 20 points with the same error (b)."""
    z = np.random.default_rng(0).standard_normal(4000)
    z = .01 * (z - z.mean()) / z.std()
    old = Trainings([cell({"a": .5, "b": .5}, dict.fromkeys("ab", np.full(4000, .5)))])
    paragon = Trainings([cell({"a": .502, "b": .7}, {"a": .502 + z, "b": .7 + z})])
    gains = update_gain(cell({"a": .479, "b": .45}), old, paragon)
    assert gains["a"] == pytest.approx(-10.5)
    known = known_gains(gains, old, paragon, 101)
    assert np.isnan(known["a"]) and known["b"] == pytest.approx(-.25)
    without = [Trainings([cell(side.values)]) for side in (old, paragon)]       # without intervals nothing is known
    assert known_gains(gains, *without, 101) == gains


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
