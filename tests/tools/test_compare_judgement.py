"""Verdicts, gains, thresholds and flips worked by hand; intervals against draws that are written out pair by pair."""

import numpy as np
import pytest
from sklearn.metrics import roc_curve

from evaluation import bootstrap
from evaluation.bootstrap import PairDraws, SearchDraws, draw_weights, interval
from evaluation.cells import Cell, Measure
from evaluation.identification import FPIRS, Hits
from evaluation.judgement import average_compatibility, compare_cells, fixed_threshold, flips, overall, p_scores, update_gain
from evaluation.protocol import Images, Pairs, People, Search
from evaluation.study import Evaluation, ijb_evaluation, subjects_of_templates
from evaluation.verification import FARS


def cell(values: dict, draws: dict | None = None, scores=None, hits: dict | None = None) -> Cell:
    return Cell(values, {k: np.array(v, float) for k, v in (draws or {}).items()}, scores, hits or {}, {})


def hits(mate, other, rank) -> Hits:
    return Hits(np.array(mate, np.float32), np.array(other, np.float32), np.array(rank), 5)


def plain(pairs: Pairs, gallery: list[int], probes: list[int]) -> Evaluation:
    rows = np.arange(len(gallery)), np.arange(len(probes))
    search = Search({"gallery": People(rows[0], np.array(gallery))}, People(rows[1], np.array(probes)))
    subjects = np.unique([*gallery, *probes], return_inverse=True)[1]
    return Evaluation("toy", pairs, search, (subjects[:len(gallery)], subjects[len(gallery):]), rows, np.ones(len(gallery), int))


# --- criterion, gain, P, AC ------------------------------------------------------------------------------

def test_verdicts_rest_on_the_draws_of_the_difference():
    """The intervals of the two overlap in every figure; what is asked is whether their difference has a sign."""
    old = cell({"a": 0.5, "b": 0.5, "c": 0.5}, {name: [0.3, 0.5, 0.7] for name in "abc"})
    new = cell({"a": 0.6, "b": 0.4, "c": 0.55}, {"a": [0.4, 0.6, 0.8], "b": [0.2, 0.4, 0.6], "c": [0.5, 0.4, 0.8]})
    found = compare_cells(new, old, ["a", "b"])
    assert {name: entry["overall"] for name, entry in found.items()} == {"a": "better", "b": "worse", "c": None}
    assert {name: entry["verdict"] for name, entry in found.items()} == {"a": "better", "b": "worse", "c": "not distinguishable"}
    assert {name: entry["criterion"] for name, entry in found.items()} == {"a": True, "b": False, "c": True}
    assert found["a"]["interval"] == pytest.approx((0.1, 0.1)) and found["c"]["interval"] == pytest.approx((-0.09, 0.195))
    assert compare_cells(new, old, [], few=["a"])["a"]["verdict"] == "not distinguishable"
    without = compare_cells(cell(new.values), cell(old.values), ["a"])
    assert [entry["verdict"] for entry in without.values()] == ["better", "worse", "better"]


@pytest.mark.parametrize("words, expected", [
    (["better", "not distinguishable"], "compatible"), (["better", "worse"], "better in some, worse in others"),
    (["worse", "not distinguishable"], "not compatible"), (["not distinguishable"], "not distinguishable from the old model")])
def test_all_figures_in_one_word(words, expected):
    assert overall({str(i): {"overall": word} for i, word in enumerate([*words, None])}) == expected


def test_one_better_figure_of_ten_is_no_verdict():
    """Each of ten figures is better in 98 % of the draws: alone that is better, among ten it may be chance."""
    old = cell({str(i): 0.5 for i in range(10)}, {str(i): np.full(1000, 0.5) for i in range(10)})
    drawn = {name: 0.5 + np.r_[np.full(20, -0.01), np.full(980, 0.1)] for name in old.values}
    found = compare_cells(cell(dict.fromkeys(old.values, 0.6), drawn), old, list(old.values))
    assert {entry["verdict"] for entry in found.values()} == {"better"}
    assert {entry["overall"] for entry in found.values()} == {"not distinguishable"}


def test_gain_and_p_scores_by_hand():
    old, mixed = cell({"a": 0.60, "b": 0.50, "c": 0.9}), cell({"a": 0.65, "b": 0.45, "c": 0.95})
    new, paragon = cell({"a": 0.88, "b": 0.70, "c": 0.9}), cell({"a": 0.80, "b": 0.70, "c": 0.9})
    gains = update_gain(mixed, old, paragon)
    assert gains["a"] == pytest.approx(0.25) and gains["b"] == pytest.approx(-0.25)     # 5 of 20 points; 5 lost of 20
    assert np.isnan(gains["c"])                                                         # the paragon is no better than the old
    found = p_scores(gains, new, paragon)
    assert found["P_comp"] == pytest.approx(50.0)           # sigmoid(1/4) + sigmoid(-1/4) = 1
    assert found["P_up"] == pytest.approx(50 * (1 / (1 + np.exp(-0.1)) + 0.5))          # 0.08 / 0.80, and 0
    assert found["P_1"] == pytest.approx(2 / (1 / found["P_comp"] + 1 / found["P_up"]))
    assert np.isnan(p_scores({"a": np.nan}, new, paragon)["P_1"])


def test_average_compatibility_by_hand():
    """Of (2,1), (3,1), (3,2) the first two beat the older model alone; a pair of other dimensions has no cell."""
    values = {("1", "1"): 0.5, ("2", "2"): 0.6, ("3", "3"): 0.7, ("2", "1"): 0.55, ("3", "1"): 0.51, ("3", "2"): 0.6}
    matrix = {pair: cell({"m": value}) for pair, value in values.items()}
    assert average_compatibility(matrix, ["1", "2", "3"], "m") == pytest.approx(2 / 3)
    del matrix["3", "1"]
    assert average_compatibility(matrix, ["1", "2", "3"], "m") == pytest.approx(1 / 3)


# --- fixed threshold and flips ---------------------------------------------------------------------------

def test_thresholds_of_today_by_hand():
    """Ten pairs of two people score 0.0 ... 0.9 in the old system: at FAR 0.1 its threshold is 0.8."""
    same = np.arange(14) >= 10
    evaluation = plain(Pairs(np.zeros(14, int), np.zeros(14, int), same), [0, 1], [0])
    old = cell({}, scores=np.array([*np.arange(10) / 10, 0.95, 0.85, 0.75, 0.05]))
    mixed = cell({}, scores=np.array([*np.arange(10) / 10 + 0.05, 0.81, 0.79, 0.7, 0.9]))
    row, = fixed_threshold(evaluation, old, mixed)["1:1"]
    assert (row["rate"], row["threshold"], row["old"]) == ("1e-1", 0.8, 0.5)
    assert (row["errors"], row["of"], row["mixed rate"], row["mixed"]) == (2, 10, 0.2, 0.5)     # 0.85, 0.95; 0.81 and 0.9
    assert row["new threshold"] == pytest.approx(0.85) and row["old rate"] == 0.1


def test_search_thresholds_and_flips_by_hand():
    """Probes 0 - 3 have a mate, 10 strangers score 0.0 ... 0.9: at FPIR 1e-1 the threshold is 0.9, the highest."""
    strangers = np.arange(10) / 10
    old = cell({}, hits={"gallery": hits([0.95, 0.92, 0.5, 0.99] + [-np.inf] * 10, [0.1, 0.1, 0.6, 0.2, *strangers],
                                         [1, 1, 2, 1] + [0] * 10)})
    mixed = cell({}, hits={"gallery": hits([0.91, 0.85, 0.95, 0.5] + [-np.inf] * 10, [0.1, 0.1, 0.6, 0.7, *strangers[:-1], 0.93],
                                           [1, 1, 1, 2] + [0] * 10)})
    evaluation = plain(None, [0, 1, 2, 3, 4], [0, 1, 2, 3] + [7] * 10)
    row, = fixed_threshold(evaluation, old, mixed)["1:N"]
    assert row["threshold"] == [pytest.approx(0.9)] and row["new threshold"] == [pytest.approx(0.93)]
    assert (row["old"], row["mixed"], row["mixed rate"], row["errors"], row["of"]) == (0.75, 0.5, 0.1, 1, 10)
    assert row["old rate"] == 0                             # the highest stranger is at the threshold, not above it
    counts, rows = flips(evaluation, old, mixed, None, "1e-1")
    assert counts == {"top-1": {"decisions": 4, "negative": 1, "positive": 1},          # probe 3 lost, probe 2 gained
                      "FPIR 1e-1, with a mate": {"decisions": 4, "negative": 2, "positive": 1},     # 1 and 3 lost, 2 gained
                      "FPIR 1e-1, strangers": {"decisions": 10, "negative": 1, "positive": 0}}      # 13 let in
    assert [(r["judged by"], r["flip"], r["probe"]) for r in rows] == [
        ("top-1", "positive", 2), ("top-1", "negative", 3), ("FPIR 1e-1, with a mate", "negative", 1),
        ("FPIR 1e-1, with a mate", "positive", 2), ("FPIR 1e-1, with a mate", "negative", 3),
        ("FPIR 1e-1, strangers", "negative", 13)]
    lost = rows[1]
    assert (lost["subject"], lost["old rank"], lost["new rank"], lost["mated"], lost["gallery"]) == (3, 1, 2, True, "gallery")
    assert (lost["old mate"], lost["new mate"], lost["old other"], lost["new other"]) == pytest.approx((0.99, 0.5, 0.2, 0.7))


def test_pairs_that_flip_are_counted():
    same = np.array([1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], bool)
    evaluation = plain(Pairs(np.zeros(13, int), np.zeros(13, int), same), [0], [0])
    old = cell({}, scores=np.array([0.95, 0.85, 0.5, *np.arange(10) / 10]))     # at FAR 1e-1 the threshold is 0.8
    new = cell({}, scores=np.array([0.7, 0.9, 0.9, *np.arange(9) / 10, 0.8]))   # 0.9 of two people was let in, 0.8 is not
    counts, _ = flips(evaluation, old, new, "1e-1", None)
    assert counts["FAR 1e-1, pairs of one person"] == {"decisions": 3, "negative": 1, "positive": 1}
    assert counts["FAR 1e-1, pairs of two people"] == {"decisions": 10, "negative": 0, "positive": 1}


# --- bootstrap -------------------------------------------------------------------------------------------

def test_the_same_model_twice_changes_nothing():
    """No flip, no figure better or worse, and at the old threshold the old system's own rates, which are below the nominal."""
    draw = np.random.default_rng(8)
    enrol, verify = (side.ravel() for side in np.meshgrid(np.arange(20), np.arange(200)))
    owner = draw.integers(0, 30, 200)
    evaluation = plain(Pairs(enrol, verify, enrol == owner[verify]), list(range(20)), owner.tolist())
    same = Measure(evaluation, 30, 0, "cpu")(*(draw.standard_normal((n, 6)).astype(np.float32) for n in (20, 200)), resample=True)
    assert {entry["verdict"] for entry in compare_cells(same, same, evaluation.reliable()).values()} == {"not distinguishable"}
    for rows in fixed_threshold(evaluation, same, same).values():
        for row in rows:
            assert row["mixed rate"] == row["old rate"] <= float(row["rate"]) and row["mixed"] == row["old"]
            assert row["new threshold"] == row["threshold"]
    counts, rows = flips(evaluation, same, same, "1e-1", "1e-1")
    assert rows == [] and all(entry["negative"] == entry["positive"] == 0 for entry in counts.values())


def test_a_draw_without_a_pair_of_two_people_has_no_tar():
    pairs = Pairs(np.array([0, 1, 2]), np.array([0, 1, 0]), np.array([True, True, False]))
    owner = np.arange(3)
    found = PairDraws(pairs, (owner, owner), np.array([[3, 0, 0], [1, 1, 1], [0, 3, 0]])).tar(np.array([0.1, 0.2, 0.9]), FARS)
    assert np.isnan(found[[0, 2]]).all() and (found[1] == 0).all()


def test_what_a_verdict_may_rest_on():
    """40 strangers support FPIR 0.1 with 4 errors, fewer than 30; 9 mated subjects are too few for any verdict."""
    many = plain(None, list(range(20)), [*range(20), *range(50, 400)])
    assert many.reliable() == ["top-1", "top-5", "top-10", "TPIR@1e-1"] and many.headline() == ["top-1", "TPIR@1e-1"]
    assert plain(None, list(range(20)), [*range(20), *range(50, 90)]).reliable() == ["top-1", "top-5", "top-10"]
    few = plain(None, list(range(9)), [*range(9), *range(50, 400)])
    assert few.reliable() == [] and "only 9 subjects have a mate among the probes" in " ".join(few.notes())


def test_subjects_of_the_gallery_alone_take_no_part_in_the_draws():
    names, (gallery, query) = plain(None, [5, 3, 9, 7], [7, 3, 7]).compared_subjects()
    assert len(names) == 2 and gallery.tolist() == [-1, 0, -1, 1] and query.tolist() == [1, 0, 1]


@pytest.mark.parametrize("many, tail", [(10 ** 6, 0.3), (10, 0.3), (10, 0.01)])     # all sorted; the tail; a tail too short
def test_draws_of_pairs_equal_the_pairs_written_out(many, tail, monkeypatch):
    monkeypatch.setattr(bootstrap, "MANY", many)
    draw = np.random.default_rng(0)
    owner = np.repeat(np.arange(12), 5)
    enrol, verify = draw.integers(0, 60, (2, 900))
    pairs = Pairs(enrol, verify, owner[enrol] == owner[verify])
    scores = np.round(draw.standard_normal(900) + pairs.same, 1).astype(np.float32)     # with ties
    weights = draw_weights(12, 6, seed=1)
    assert (weights.sum(1) == 12).all() and len(np.unique(weights, axis=0)) == 6
    found = PairDraws(pairs, (owner, owner), weights).tar(scores, FARS, tail)
    for w, row in zip(weights, found, strict=True):
        times = np.where(pairs.same, w[owner[enrol]], w[owner[enrol]] * w[owner[verify]])
        chosen = np.repeat(np.arange(900), times)
        far, tar, _ = roc_curve(pairs.same[chosen], scores[chosen], drop_intermediate=False)
        np.testing.assert_allclose(row, [tar[far <= x + 1e-12].max() for x in FARS], atol=1e-12)


def test_draws_of_probes_equal_the_probes_written_out():
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


def test_interval_leaves_out_what_has_no_figure():
    assert interval(np.array([np.nan, 1.0, 2.0, np.nan])) == pytest.approx((1.025, 1.975))
    assert interval(np.array([np.nan])) is None and interval(np.zeros(0)) is None
    assert interval(np.arange(101.0), figures=5) == pytest.approx((0.5, 99.5))


def test_an_interval_covers_the_truth_as_often_as_it_says():
    """Subjects with a TAR of their own: of 200 samples about 190 intervals must hold the population's mean."""
    draw, inside = np.random.default_rng(5), 0
    for seed in range(200):
        skill = draw.random(40)                                 # mean 1/2
        owner = np.repeat(np.arange(40), 6)
        mate = (draw.random(240) < skill[owner]).astype(np.float32)
        found = Hits(mate, np.full(240, 0.5, np.float32), np.where(mate > 0.5, 1, 2), 9)
        low, high = interval(SearchDraws(owner, draw_weights(40, 200, seed)).figures({"G": found})["top-1"])
        inside += low <= 0.5 <= high
    assert 180 <= inside <= 198


# --- what is compared ------------------------------------------------------------------------------------

def test_subjects_come_from_lists_and_from_pairs():
    """Template 4 is in no list, but a pair says that it shows the person of template 3; 5 is alone."""
    pairs = Pairs(np.array([0, 4, 5]), np.array([1, 3, 0]), np.array([False, True, False]))
    search = Search({"G": People(np.array([0, 1]), np.array([70, 80]))}, People(np.array([2, 3]), np.array([70, 90])))
    subject = subjects_of_templates(6, pairs, search)
    assert subject[0] == subject[2] and subject[3] == subject[4] and len(set(subject)) == 4


def test_an_ijb_folder_tells_images_score_and_media_of_a_template():
    images = Images(None, np.array(["a", "b", "c", "d"]), None, np.array([0.5, 0.7, 0.9, 0.1], np.float32),
                    np.array([0, 0, 1, 0]), np.array([3, 3, 3, 8]), np.array([10, 20]), "")
    pairs = Pairs(np.array([0, 0]), np.array([0, 1]), np.array([True, False]))
    search = Search({"G": People(np.array([0]), np.array([1]))}, People(np.array([1]), np.array([2])))
    found = ijb_evaluation(images, pairs, search, "IJBC")
    assert found.images.tolist() == [3, 1] and found.qualities["number of media"].tolist() == [2, 1]
    assert found.qualities["detector score"] == pytest.approx([1.3 / 3, 0.9])
    assert found.gallery_rows().tolist() == [0] and found.compared_subjects()[0].tolist() == [0, 1]
    assert found.negatives() == {"1:1": 1, "1:N": 1}
    notes = " ".join(found.notes())
    assert "gallery G has a single subject" in notes and "smallest FAR that they support is 1" in notes
    assert "1 of 1 probes have no mate" in notes and found.metrics() == []


def test_figures_of_a_cell_against_scikit_learn_and_a_loop():
    draw = np.random.default_rng(7)
    gallery_owner, probe_owner = np.arange(20), draw.integers(0, 30, 200)
    centres = draw.standard_normal((30, 6))
    gallery, query = (centres[o] + 0.9 * draw.standard_normal((len(o), 6)) for o in (gallery_owner, probe_owner))
    enrol, verify = (side.ravel() for side in np.meshgrid(np.arange(20), np.arange(200)))
    pairs = Pairs(enrol, verify, gallery_owner[enrol] == probe_owner[verify])
    evaluation = plain(pairs, gallery_owner.tolist(), probe_owner.tolist())
    found = Measure(evaluation, 50, 0, "cpu")(gallery.astype(np.float32), query.astype(np.float32), resample=True)
    unit = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (gallery, query)]
    cosine = unit[1] @ unit[0].T
    far, tar, _ = roc_curve(pairs.same, cosine.ravel(), drop_intermediate=False)
    for name, x in (("TAR@1e-3", 1e-3), ("TAR@1e-2", 1e-2), ("TAR@1e-1", 0.1)):
        assert found.values[name] == pytest.approx(tar[far <= x].max())
    mated = np.flatnonzero(probe_owner < 20)
    ranks = [1 + sum(cosine[i] >= cosine[i, probe_owner[i]]) - 1 for i in mated]
    assert found.values["top-5"] == pytest.approx(np.mean(np.array(ranks) <= 5))
    strangers = np.sort(cosine[probe_owner >= 20].max(1))[::-1]
    threshold = strangers[max(int(0.1 * len(strangers)) - 1, 0)]
    expected = np.mean([rank == 1 and cosine[i, probe_owner[i]] > threshold for i, rank in zip(mated, ranks, strict=True)])
    assert found.values["TPIR@1e-1"] == pytest.approx(expected)
    assert set(found.values) == set(found.draws) == set(evaluation.metrics())
    for name, value in found.values.items():
        low, high = found.interval(name)
        assert low <= value <= high and high - low < 0.5, name
    assert (found.curve["low"] <= found.curve["high"]).all()
