"""Who is enrolled, who searches and which pairs are compared, against plain loops over the people."""

from collections import Counter

import numpy as np
import pytest

from evaluation.draw_protocol import assign, draw_pairs, refuse_too_few
from utils.errors import UserError

COUNTS = np.array([4, 1, 2, 6, 3, 1, 2, 5, 2, 2])


def roles_of(counts=COUNTS, enrol=1, non_mated=0.3, seed=0):
    return assign(np.array(counts), enrol, non_mated, np.random.default_rng(seed))


@pytest.mark.parametrize("enrol", [1, 2, 3])
@pytest.mark.parametrize("non_mated", [0.0, 0.3, 0.5])
def test_templates_galleries_and_probes(enrol, non_mated):
    roles = roles_of(enrol=enrol, non_mated=non_mated)
    number, rows = 0, []
    for subject, count in enumerate(COUNTS):
        templates = []
        for k in range(count):
            if k == 0 or k >= enrol:
                number += 1
                rows.append([number, subject])
            templates.append(number)
        assert roles.images[subject] == templates and roles.enrolled[subject] == templates[0]
    assert roles.templates.tolist() == rows
    single = enrol >= COUNTS
    assert (roles.gallery[single] == -1).all() and (roles.gallery == -1).sum() == max(round(non_mated * 10), single.sum())
    sizes = [(roles.gallery == g).sum() for g in (0, 1)]
    assert abs(sizes[0] - sizes[1]) <= 1
    entries = [entry for gallery in roles.galleries() for entry in gallery]
    assert sorted(s for _, s in entries) == np.flatnonzero(roles.gallery >= 0).tolist()
    assert sorted(entries + [tuple(p) for p in roles.probes().tolist()]) == [tuple(r) for r in rows]
    mates = Counter(roles.gallery[s] for _, s in roles.probes().tolist())
    assert roles.mates() == [mates[0], mates[1]]
    assert roles.negatives() == min(mates[-1] + mates[1], mates[-1] + mates[0])


def test_pairs():
    roles = roles_of(enrol=2)
    owner = dict(roles.templates.tolist())
    genuine = [(int(e), t, 1) for s, e in enumerate(roles.enrolled) for t in owner if owner[t] == s and t != e]
    possible = {(int(e), t, 0) for s, e in enumerate(roles.enrolled) for t in owner if owner[t] != s}
    every = draw_pairs(roles, 10**6, np.random.default_rng(0))
    assert every[:len(genuine)] == genuine and set(every[len(genuine):]) == possible
    assert len(every) == len(genuine) + len(possible)
    some = draw_pairs(roles, 30, np.random.default_rng(0))
    assert len(some) == len(genuine) + 30 == len(set(some)) and set(some[len(genuine):]) < possible
    assert some == draw_pairs(roles, 30, np.random.default_rng(0)) != draw_pairs(roles, 30, np.random.default_rng(1))


def test_the_seed_decides_who_is_non_mated():
    who = {tuple(roles_of(seed=seed).gallery) for seed in range(20)}
    assert len(who) > 10 and tuple(roles_of(seed=3).gallery) in who


def check(counts, far=0.1, fpir=0.1, impostors=10**6, **options):
    roles = roles_of(counts, **options)
    refuse_too_few(roles, draw_pairs(roles, impostors, np.random.default_rng(0)), far, fpir)


def test_rates_and_the_people_that_they_need():
    """7 mated people of two pictures and 3 of one: each of 10 against the templates of others; one probe of each mated person."""
    counts = [2] * 7 + [1] * 3
    roles = roles_of(counts)
    assert len(draw_pairs(roles, 10**6, np.random.default_rng(0))) == 7 + 7 * 15 + 3 * 16
    assert sorted(roles.mates()) == [3, 4] and roles.negatives() == 6
    check(counts, far=1 / 153, fpir=1 / 6)
    with pytest.raises(UserError, match="10 people with 17 pictures.*FAR 6e-3 needs 167 impostor pairs, there are 153"):
        check(counts, far=0.006, fpir=1 / 6)
    with pytest.raises(UserError, match="FAR 1e-1 needs 10 impostor pairs, there are 9"):
        check(counts, fpir=1 / 6, impostors=9)
    with pytest.raises(UserError, match="FPIR 1e-1 needs 10 non-mated probes in each gallery, there are 6"):
        check(counts)


@pytest.mark.parametrize("counts, options", [([2] * 3, {}), ([1] * 50, {}), ([4] * 20, {"enrol": 4}), ([1], {}),
                                             ([5] * 8, {"non_mated": 0.9})])
def test_nobody_to_search_for(counts, options):
    with pytest.raises(UserError, match=r"\d people are enrolled and have further pictures, at least 4 are needed"):
        check(counts, **options)
