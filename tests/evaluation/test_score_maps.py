"""Score maps against loops in float64 and against scores that the fit has not seen."""

import math

import numpy as np
import pytest
import torch

from evaluation.identification import search
from evaluation.protocol import People
from evaluation.score_maps import MAX_ENTRIES, PartlyMapped, fit_score_map, last_reached, mapped, own_impostors, score_maps
from evaluation.version_features import Features
from serving.upgrade import ScoreMap


def test_a_map_counts_up_to_the_tail_and_is_exponential_beyond():
    """2,000 scores k / 4000: 30 of them are the tail (1 % would be 20), so that u is the 31st from above."""
    scores = np.arange(2000) / 4000
    found = fit_score_map(np.random.default_rng(0).permutation(scores))
    u = scores[2000 - 31]
    assert found.scores[-1] == u and found.values[-1] == pytest.approx(-math.log10(31 / 2000))
    for knot, value in zip(found.scores, found.values, strict=True):
        assert value == pytest.approx(-math.log10(sum(score >= knot for score in scores) / 2000), abs=1e-12)
    assert found.scores[0] == 0 and found.values[0] == 0
    mean = sum(score - u for score in scores[-30:]) / 30
    assert found(u + 0.2) == pytest.approx(-math.log10(31 / 2000 * math.exp(-0.2 / mean)))


def test_a_map_rises_whatever_the_scores_are():
    draw, grid = np.random.default_rng(1), np.linspace(-1, 1, 4001)
    for scores in (draw.normal(0, 0.1, 5000), draw.integers(0, 9, 5000) / 10, draw.standard_t(2, 5000) / 50,
                   np.r_[np.zeros(4999), 0.5]):
        found = fit_score_map(scores)
        if found is not None:
            assert (np.diff(found(grid)) >= 0).all() and np.isfinite(found(grid)).all()
    assert fit_score_map(draw.normal(0, 0.1, 999)) is None              # too few
    assert fit_score_map(np.full(5000, 0.25)) is None                   # one score


def test_the_claimed_rate_holds_for_scores_that_the_map_has_not_seen():
    """5,000 scores fit; of 1,000,000 others the share above the score of FAR x is x, within the noise of the fit.

    The noise of a counted rate is that of 5,000 x events; 4 standard deviations. The tail is that of a normal distribution, which
    falls faster than an exponential: below 1e-3 the claim is only too large.
    """
    draw = np.random.default_rng(2)
    found = fit_score_map(draw.normal(0, 0.1, 5000))
    values = found(draw.normal(0, 0.1, 1_000_000))
    for far in (0.3, 0.1, 0.03, 0.01):
        share = (values >= -math.log10(far)).mean()
        assert abs(share - far) < 4 * math.sqrt(far * (1 - far) / 5000), far
    assert (values >= 4).mean() < 2e-4
    tail = fit_score_map(draw.exponential(0.05, 5000) - 0.5)(draw.exponential(0.05, 1_000_000) - 0.5)
    assert (tail >= 4).mean() == pytest.approx(1e-4, rel=0.9)           # 0.7: the scale from 50 excesses, 46 times the tail


def test_a_tensor_is_mapped_like_an_array():
    score_map = fit_score_map(np.random.default_rng(3).normal(0, 0.1, 3000))
    scores = np.r_[-np.inf, np.linspace(-1, 1, 999), score_map.scores].reshape(4, -1)
    found = mapped(score_map, torch.from_numpy(scores)).numpy()
    np.testing.assert_allclose(found, score_map(scores), atol=1e-12)
    np.testing.assert_allclose(mapped(score_map, torch.from_numpy(scores.astype(np.float32))).numpy(), found, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("gap", [1e-2, 1e-3, 1e-4, 1e-7])      # the last has two knots in a cell, whatever the cells
def test_the_last_knot_that_a_score_reaches(gap, dtype):
    """Against a loop, at each knot and at the numbers next to it."""
    draw = np.random.default_rng(5)
    knots = torch.tensor(np.cumsum(np.r_[-0.3, gap, draw.uniform(gap, 0.05, 20), gap]), dtype=dtype)
    infinity = torch.full_like(knots, torch.inf)
    scores = torch.cat([knots, torch.nextafter(knots, infinity), torch.nextafter(knots, -infinity), infinity[:1], -infinity[:1],
                        torch.tensor(draw.uniform(-1, 1, 501), dtype=dtype)])
    expected = [max(0, sum(score >= knot for knot in knots.tolist()) - 1) for score in scores.tolist()]
    assert last_reached(knots, scores).tolist() == expected
    assert last_reached(knots, scores.view(-1, 2)).tolist() == expected


def test_own_impostors_are_the_gallerys_pairs_of_different_people():
    draw = np.random.default_rng(4)
    entries, queries = (draw.standard_normal((6, 3)).astype(np.float32) for _ in range(2))
    subjects, rows = np.array([5, 5, 7, 8, 9, 7]), np.array([0, 1, 2, 5])
    expected = [float(queries[i] @ entries[j] / np.linalg.norm(queries[i]) / np.linalg.norm(entries[j]))
                for i in rows for j in rows if subjects[i] != subjects[j]]
    np.testing.assert_allclose(own_impostors(entries, queries, rows, subjects), expected, atol=1e-6)
    many = np.arange(MAX_ENTRIES + 5)
    assert len(own_impostors(np.ones((len(many), 1)), np.ones((len(many), 1)), many, many)) == MAX_ENTRIES * (MAX_ENTRIES - 1)


def test_old_entries_meet_the_view_of_new_images_that_belongs_to_them():
    draw = np.random.default_rng(5)
    old, gallery, query, view = (draw.standard_normal((40, d)).astype(np.float32) for d in (3, 5, 5, 3))
    rows, subjects = np.arange(40), np.arange(40)
    mapped_version = Features(gallery, query, on_old=(2 * old + 1, view), own=view)
    for entries, new, stored, own in ((Features(query, query), Features(gallery, query), query, gallery),
                                      (Features(old, old), mapped_version, 2 * old + 1, view)):
        found = score_maps(entries, new, rows, subjects)
        for score_map, sides in zip(found, ((stored, own), (gallery, gallery)), strict=True):
            np.testing.assert_array_equal(score_map.scores, fit_score_map(own_impostors(*sides, rows, subjects)).scores)
    assert score_maps(Features(old, old), mapped_version, rows[:20], subjects) is None


def test_a_search_ranks_entries_by_the_map_of_their_kind():
    """The probe's cosines are 0.6 to its old mate, 0.7 to a re-embedded entry and 0.65 to another one.  By the maps, 0.6 is worth
    3, 0.7 only 2 and 0.65 1.5: the mate comes first."""
    gallery = np.array([[0.6, 0.8, 0], [0.7, 0, math.sqrt(0.51)], [0.65, 0, -math.sqrt(1 - 0.65 ** 2)]], np.float32)
    query, probes = np.array([[1, 0, 0]], np.float32), People(np.array([0]), np.array([4]))
    maps = ScoreMap([0, 1], [0, 5], 5), ScoreMap([0.5, 1], [0, 5], 5)
    done = np.array([False, True, True])
    people = People(np.arange(3), np.array([4, 8, 6]))
    assert search(gallery, query, people, probes).rank.tolist() == [3]
    hits = search(gallery, query, people, probes, scale=PartlyMapped(done, maps))
    assert hits.rank.tolist() == [1] and hits.mate == pytest.approx([3]) and hits.other == pytest.approx([2], abs=1e-5)
    halved = search(gallery, query, people, probes, scale=PartlyMapped(done, maps, 0.5))
    assert halved.mate == pytest.approx([1.5]) and halved.other == pytest.approx([0], abs=1e-5)
    both = search(gallery, query, People(np.arange(3), np.array([4, 4, 6])), probes, scale=PartlyMapped(~done, maps))
    assert both.mate == pytest.approx([3.5], abs=1e-5) and both.other == pytest.approx([3.25], abs=1e-5)      # best of two
