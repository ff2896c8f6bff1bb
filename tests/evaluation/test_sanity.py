"""Signs that the inputs made the figures."""

import numpy as np
import pytest
from toy_evaluation import cell, plain

from evaluation.cells import Measure
from evaluation.protocol import Pairs
from evaluation.sanity import at_chance, below_mixed, guessing, identical, is_weak, leave_out, same_rows, useless_maps
from evaluation.trainings import Trainings

DRAW = np.random.default_rng(0)
PEOPLE = 40
OWNER = np.repeat(np.arange(PEOPLE), 3)
CENTRES = DRAW.standard_normal((PEOPLE, 16))
GALLERY = (CENTRES + .5 * DRAW.standard_normal((PEOPLE, 16))).astype(np.float32)
QUERY = (CENTRES[OWNER] + .5 * DRAW.standard_normal((3 * PEOPLE, 16))).astype(np.float32)
ENROL, VERIFY = (side.ravel() for side in np.meshgrid(np.arange(PEOPLE), np.arange(3 * PEOPLE)))
PAIRS = Pairs(ENROL, VERIFY, OWNER[VERIFY] == ENROL)
BOTH, SEARCH = (plain(pairs, list(range(PEOPLE)), OWNER.tolist()) for pairs in (PAIRS, None))
ONE_TO_ONE = plain(PAIRS, [999] * PEOPLE, OWNER.tolist())


def measured(evaluation, gallery, query):
    return Measure(evaluation, 0, 0, "cpu")(gallery, query)


@pytest.mark.parametrize("evaluation", [BOTH, SEARCH], ids=["with pairs", "search only"])
@pytest.mark.parametrize("change", ["gallery permuted", "probes permuted", "one row further", "constant", "reversed"])
def test_rows_in_another_order_than_their_labels_are_at_chance(evaluation, change):
    order = np.random.default_rng(3).permutation
    gallery, query = {"gallery permuted": (GALLERY[order(PEOPLE)], QUERY), "probes permuted": (GALLERY, QUERY[order(len(QUERY))]),
                      "one row further": (np.roll(GALLERY, 1, 0), QUERY), "constant": (np.ones_like(GALLERY), QUERY),
                      "reversed": (GALLERY[::-1], QUERY)}[change]
    found = at_chance(evaluation, "old", measured(evaluation, gallery, query))
    assert found.forbids == {"old"} and "old on its own gallery is at chance (top-1 is " in found.text
    assert "guessing gives 2.5 %" in found.text
    assert at_chance(evaluation, "old", measured(evaluation, GALLERY, QUERY)) is None


def test_pairs_alone_are_enough_to_see_chance():
    right, wrong = (measured(ONE_TO_ONE, gallery, QUERY) for gallery in (GALLERY, GALLERY[::-1]))
    assert at_chance(ONE_TO_ONE, "old", right) is None
    assert "area under the ROC" in at_chance(ONE_TO_ONE, "old", wrong).text


def test_a_weak_model_is_above_chance_and_few_people_say_nothing():
    weak = (QUERY + 3 * DRAW.standard_normal(QUERY.shape)).astype(np.float32)
    found = measured(BOTH, GALLERY, weak)
    assert .08 < found.values["top-1"] < .3 and at_chance(BOTH, "old", found) is None
    few = plain(None, list(range(9)), list(range(9)))
    assert at_chance(few, "old", measured(few, GALLERY[:9], GALLERY[:9][::-1])) is None


def test_guessing_is_seldom_called_better_than_chance():
    """The three probes of a person look alike, so they are right or wrong together: 40 guesses and not 120."""
    alike = (CENTRES[OWNER] + .01 * DRAW.standard_normal(QUERY.shape)).astype(np.float32)
    called = [at_chance(SEARCH, "old", measured(SEARCH, GALLERY[np.random.default_rng(k).permutation(PEOPLE)], alike)) is not None
              for k in range(100)]
    assert sum(called) >= 92


@pytest.mark.parametrize("scale", [1, -3, .001])
def test_the_same_rows_on_both_sides(scale):
    """Whatever their length, rows of one direction are equal; a row that is turned round is not."""
    found = identical(BOTH, measured(BOTH, GALLERY, np.float32(scale) * GALLERY[OWNER]))
    assert found[0].all() == found[1][PAIRS.same].all() == (scale > 0) and not found[1][~PAIRS.same].any()
    warnings = same_rows(BOTH, {"old": found})
    assert [w.forbids for w in warnings] == ([{"old"}] if scale > 0 else [])
    if scale > 0:
        assert "120 of 120 probes with a mate of old equal a gallery row of their own" in warnings[0].text
        assert leave_out(BOTH, *found) is None


def test_a_few_pictures_on_both_sides_are_left_out():
    query = QUERY.copy()
    query[[4, 50]] = GALLERY[OWNER[[4, 50]]]
    probes, pairs = identical(BOTH, measured(BOTH, GALLERY, query))
    assert np.flatnonzero(probes).tolist() == [4, 50] and VERIFY[pairs].tolist() == [4, 50]
    smaller = leave_out(BOTH, probes, pairs)
    assert len(smaller.search.probes.subjects) == 118 and smaller.pairs.same.sum() == 118
    assert len(smaller.pairs.same) == len(PAIRS.same) - 2 and not same_rows(smaller, {"old": (probes, pairs)})


def test_a_version_below_its_own_mixed_figure():
    def trainings(value):
        return Trainings([cell({"m": value}, {"m": value + .01 * np.array([-1., 1, 0, 0])})])
    found = below_mixed("new", trainings(.5), trainings(.6), "old", ["m"], 50)
    assert "new does worse on its own gallery than on that of old (m 50.00 against 60.00 %)" in found.text and not found.forbids
    assert below_mixed("new", trainings(.6), trainings(.5), "old", ["m"], 50) is None
    assert below_mixed("new", trainings(.5), trainings(.6), "old", [], 50) is None


def test_a_map_that_predicts_nothing():
    found = useless_maps({"a+ridge": .99, "a+Procrustes": 1.0, "b+ridge": 1.7, "c+ridge": float("nan")})
    assert [next(iter(w.forbids)) for w in found] == ["a+Procrustes", "b+ridge", "c+ridge"]


def test_what_guessing_reaches_and_who_is_near_it():
    """40 people in the gallery. A tenth of the way from 0.1 to 1 is 0.19, from 1/40 to 1 it is 0.1225."""
    both = plain(PAIRS, list(range(PEOPLE)), [*OWNER.tolist(), *range(100, 300)][:3 * PEOPLE])
    guesses = guessing(both)
    assert guesses["TAR@1e-1"] == .1 and guesses["top-1"] == 1 / 40 and guesses["top-5"] == 1 / 8
    search = plain(None, list(range(PEOPLE)), [*range(PEOPLE), *range(100, 300)])
    assert guessing(search)["TPIR@1e-1"] == pytest.approx(.1 / 40)
    assert guessing(plain(None, [1, 2, 3], [1, 2, 3] * 5))["top-5"] == 1
    guesses = {"TAR@1e-1": .1, "top-1": 1 / 40, "top-50": 1.0}
    assert is_weak({"TAR@1e-1": .189, "top-1": .122, "top-50": 1.0}, guesses)
    assert not is_weak({"TAR@1e-1": .191, "top-1": .02}, guesses) and not is_weak({"TAR@1e-1": .1, "top-1": .123}, guesses)
    assert not is_weak({"top-50": 1.0}, guesses)                # guessing reaches everything: no model is called weak
