"""Identification figures against plain loops and examples worked by hand."""

import numpy as np
import pytest
from toy_evaluation import random_unit_rows

from evaluation import identification
from evaluation.identification import Hits, one_to_many, search, search_each
from evaluation.protocol import People, Search


def people(templates, subjects) -> People:
    return People(np.array(templates, np.int32), np.array(subjects))


def in_loops(gallery, query, entries: People, probes: People) -> list[tuple]:
    """(mate, other, rank) of every probe, one comparison at a time."""
    out = []
    for template, subject in zip(probes.templates, probes.subjects, strict=True):
        best = {}
        for row, name in zip(entries.templates, entries.subjects, strict=True):
            cosine = float(query[template].astype(float) @ gallery[row].astype(float))
            best[name] = max(best.get(name, -2), cosine)
        mate = best.pop(subject, -np.inf)
        rank = 1 + sum(value >= mate for value in best.values()) if mate > -np.inf else 0
        out.append((mate, max(best.values(), default=-np.inf), rank))
    return out


@pytest.mark.parametrize("entries, cells", [(1, 1), (2, 7), (10 ** 4, 10 ** 6)])
def test_search_equals_the_loops_with_several_templates_per_subject(entries, cells, monkeypatch):
    monkeypatch.setattr(identification, "GALLERY_ROWS_PER_BLOCK", entries)
    monkeypatch.setattr(identification, "SEARCH_SIMILARITIES_PER_BLOCK", {"cpu": cells})
    draw = np.random.default_rng(5)
    gallery, query = random_unit_rows(draw, 50, 5), random_unit_rows(draw, 50, 5)
    galleries = {"one each": people([4, 2, 9], [70, 50, 60]), "only one": people([8], [50]),
                 "repeated": people([0, 7, 3, 5, 4], [9, 70, 9, 50, 9])}
    probes = people(draw.integers(0, 50, 30), draw.choice([9, 50, 60, 70, 80], 30))
    for name, entries in galleries.items():
        hits = search(gallery, query, entries, probes)
        expected = np.array(in_loops(gallery, query, entries, probes))
        np.testing.assert_allclose(hits.mate, expected[:, 0], atol=1e-6)
        np.testing.assert_allclose(hits.other, expected[:, 1], atol=1e-6)
        assert hits.rank.tolist() == expected[:, 2].tolist()
        assert hits.entries == len(set(entries.subjects)), name


@pytest.mark.parametrize("shared", [False, True])
def test_a_search_in_all_galleries_equals_the_loops(shared, monkeypatch):
    """The merged search uses those of the single galleries; if a subject is in both, it is a search of its own."""
    monkeypatch.setattr(identification, "GALLERY_ROWS_PER_BLOCK", 4)
    draw = np.random.default_rng(6)
    gallery, query = random_unit_rows(draw, 40, 5), random_unit_rows(draw, 40, 5)
    galleries = {"G1": people(range(10), draw.permutation(10) // 2),
                 "G2": people(range(10, 18), [*range(10, 17), 4 if shared else 9])}
    probes = people(draw.integers(0, 40, 60), draw.integers(0, 20, 60))
    found = search_each(gallery, query, galleries, probes)
    assert list(found) == ["G1", "G2", "mixed"]
    for name, entries in (galleries | {"mixed": galleries["G1"] + galleries["G2"]}).items():
        expected = np.array(in_loops(gallery, query, entries, probes))
        np.testing.assert_allclose(found[name].mate, expected[:, 0], atol=1e-6)
        np.testing.assert_allclose(found[name].other, expected[:, 1], atol=1e-6)
        assert found[name].rank.tolist() == expected[:, 2].tolist(), name


def test_tpir_by_hand():
    """Four non-mated probes score 0.9, 0.6, 0.5, 0.3; for four of five mated probes the mate is first."""
    mate = np.array([0.95, 0.7, 0.55, 0.4, 0.99] + [-np.inf] * 4)
    other = np.array([0.1, 0.2, 0.3, 0.3, 0.995] + [0.9, 0.6, 0.5, 0.3])
    hits = Hits(mate, other, np.array([1, 1, 1, 1, 2, 0, 0, 0, 0]), 10)
    tpir, threshold = hits.tpir(np.array([0.25, 0.5, 0.75, 1.0]))
    assert threshold.tolist() == [0.9, 0.6, 0.5, 0.3]           # entries 0, 1, 2, 3: max(int(4 x) - 1, 0)
    assert tpir.tolist() == [0.2, 0.4, 0.6, 0.8]
    assert [hits.within(k) for k in (1, 2)] == [4, 5]


def test_a_tie_is_not_a_hit():
    gallery = np.array([[1, 0], [1, 0]], np.float32)
    hits = search(gallery, gallery, people([0, 1], [5, 6]), people([0], [5]))
    assert hits.rank.tolist() == [2] and hits.tpir(np.array([1.0]))[0].shape == (1,)


def test_one_to_many_pools_and_averages_the_galleries():
    """Probes 0 and 1 have mates in G1, probe 2 in G2, probe 3 in none."""
    e = np.eye(4, dtype=np.float32)
    query = np.stack([e[0], e[3], e[2], (e[0] + e[2]) / np.sqrt(2, dtype=np.float32)])
    galleries = {"G1": people([0, 1], [10, 11]), "G2": people([2], [12])}
    protocol = Search(galleries, people(range(4), [10, 11, 12, 99]))
    figures, curves = one_to_many(e, query, protocol)
    assert figures["top"]["1"] == pytest.approx(2 / 3) and figures["top_of_all_probes"]["1"] == 2 / 4
    assert (figures["mated"], figures["probes"]) == (3, 4)
    assert figures["galleries"]["G1"]["top"] == {"1": 0.5, "5": 1.0, "10": 1.0}
    assert (figures["galleries"]["mixed"]["entries"], figures["galleries"]["mixed"]["mated"]) == (3, 3)
    # FPIR 1: G1 has two negatives, the lowest scores 0, so probe 0 (1.0) passes; G2 likewise has probe 2.
    assert figures["TPIR"][-1] == pytest.approx((1 / 2 + 1 / 1) / 2)
    assert np.isnan(figures["TPIR"][0]) and curves["cmc"][1] == 1.0


def test_without_mated_or_without_non_mated_probes_figures_are_nan():
    e = np.eye(3, dtype=np.float32)
    all_mated = Search({"G1": people([0], [1]), "G2": people([1], [1])}, people([2], [1]))
    figures, curves = one_to_many(e, e, all_mated)
    assert np.isnan(figures["TPIR"]).all() and figures["top"]["1"] == 1.0
    none_mated = Search({"G1": people([0], [1]), "G2": people([1], [2])}, people([2], [3]))
    figures, curves = one_to_many(e, e, none_mated)
    assert np.isnan(figures["top"]["1"]) and np.isnan(figures["TPIR"]).all() and np.isnan(curves["cmc"]).all()
