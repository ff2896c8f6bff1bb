"""Stored vectors that a forward map puts into the new space, without their images; in LanceDB, with numbers by hand."""

import json
import sys

import numpy as np
import pytest
from gallery_lance import COUNT, make
from gallery_toys import FARS, NEW, OLD, People, rows_of, write_upgrade

from gallery import search
from gallery.names import Names, load_upgrade, names_of
from gallery.plan import make_plan
from gallery.search import Searcher
from gallery.sources import GivenVectors, StoredVectors
from gallery.store import open_store
from serving.upgrade import VectorMap, unit
from tools.gallery import gallery
from utils.errors import UserError

pytest.importorskip("lancedb", reason="pip install -r requirements-stores.txt")
MAPPED = "gallery__new__mapped"
TOP = 5


def command(monkeypatch, place, name, *words) -> None:
    given = [] if name in ("rollback", "finish", "status") else ["--upgrade", place / "upgrade.json"]
    monkeypatch.setattr(sys, "argv", ["gallery.py", name, "--store", str(place / "lance"), *map(str, [*given, *words])])
    gallery.main()


def images(place) -> list:
    """The words for new vectors, as images would give them."""
    return ["--vectors", place / "new.npy", "--ids", place / "ids.txt"]


def hits(place, queries, query=NEW) -> list:
    store, upgrade = open_store(str(place / "lance")), load_upgrade(place / "upgrade.json")
    return Searcher(store, upgrade, names_of(store, upgrade, NEW, None), query, NEW)(queries, TOP, FARS[1])


def compare_with_dense(place, people, entries: dict[str, tuple[str, np.ndarray]], queries: np.ndarray) -> None:
    """Hits, cosines and decisions against products in float64.  entries: {id: (its version, its vector in the new space)}."""
    upgrade, ids = load_upgrade(place / "upgrade.json"), sorted(entries)
    versions = np.array([entries[entry][0] for entry in ids])
    scores = unit(queries.astype(float)) @ unit(np.array([entries[entry][1] for entry in ids], float)).T
    values = np.where(versions == OLD, upgrade.comparable(scores, NEW, OLD), upgrade.comparable(scores, NEW, NEW))
    for row, found in enumerate(hits(place, queries)):
        best = np.argsort(-values[row])[:TOP]
        np.testing.assert_allclose([hit.value for hit in found], values[row, best], atol=1e-4)
        assert [hit.version for hit in found] == versions[best].tolist()
        np.testing.assert_allclose([hit.score for hit in found], scores[row, best], atol=1e-5)
        limits = [upgrade.threshold(NEW, version, FARS[1]) + 1e-6 for version in versions[best]]
        assert [hit.accepted for hit in found] == (scores[row, best] > limits).tolist()


def test_a_mapped_vector_by_hand(tmp_path):
    """The map is that of rows of norm 1, and the norm stays; vectors without a direction have none."""
    people = People(COUNT)
    people.old[7], people.old[9, 3] = 0, np.nan
    np.savez(tmp_path / "map.npz", weight=people.forward, bias=people.offset)
    source = StoredVectors(VectorMap(tmp_path / "map.npz"))
    norm = np.linalg.norm(people.old, axis=1, keepdims=True)
    for stored in (people.old, people.old * 50, people.old.astype(np.float16), people.old / np.where(norm > 0, norm, 1)):
        people.old = np.nan_to_num(stored)
        vectors, without = source.vectors(people.ids(), stored)
        assert set(without) == {"p0007", "p0009"} and not vectors[[7, 9]].any()
        expected = people.mapped()
        for row in set(range(COUNT)) - {7, 9}:
            np.testing.assert_allclose(vectors[row], expected[row], rtol=0, atol=2e-6 * np.linalg.norm(expected[row]))


def test_search_before_and_on_the_way_and_the_way_back(place, monkeypatch, capsys):
    """An entry has the same score before and after it is mapped.  New people are enrolled meanwhile."""
    people = People(COUNT)
    _, uri = make(place, people, forward=True)
    before, queries = rows_of("lancedb", uri, "gallery"), people.new_query[:20]
    expected = {entry: (OLD, vector) for entry, vector in zip(people.ids(), people.mapped(), strict=True)}
    compare_with_dense(place, people, expected, queries)
    command(monkeypatch, place, "reembed", "--share", 0.5)
    assert "30 entries moved; now 30 are old and 30 are mapped" in capsys.readouterr().out
    store = open_store(uri)
    there = next(iter(rows_of("lancedb", uri, MAPPED)))
    store.copy(store.table(MAPPED), store.table("gallery__new"), [there], people.new[:1])       # enrolled by the new model
    compare_with_dense(place, people, expected | {there: (NEW, people.new[0])}, queries)
    sentence = "queries of old cannot search entries of new, which gallery__new__mapped has; ask with new"
    with pytest.raises(UserError, match=sentence):
        hits(place, people.old_query, OLD)
    command(monkeypatch, place, "rollback")
    assert "1 entries have only a new vector" in capsys.readouterr().out and rows_of("lancedb", uri, "gallery") == before
    assert open_store(uri).tables() == ["gallery", "gallery__new"]


def test_two_steps_and_their_order(place, monkeypatch, capsys):
    """Images come after the map, each step is finished or rolled back before the other, and its rollback is its own."""
    people, uri = make(place, forward=True)
    for name in ("plan", "reembed"):
        with pytest.raises(UserError, match="behind a forward map: map these first, by the same command without --images"):
            command(monkeypatch, place, name, *images(place))
    with pytest.raises(UserError, match="new vectors come from --images FOLDER and --model FILE"):
        command(monkeypatch, place, "reembed", "--images", place)
    command(monkeypatch, place, "reembed", "--limit", 10)
    with pytest.raises(UserError, match="__mapped__kept has the old vectors of gallery, .* gallery.py finish or"):
        command(monkeypatch, place, "reembed", *images(place))
    command(monkeypatch, place, "reembed")
    command(monkeypatch, place, "finish", "--yes")
    assert "the gallery is gallery__new__mapped" in capsys.readouterr().out
    assert open_store(uri).tables() == ["gallery__new", MAPPED]
    mapped = rows_of("lancedb", uri, MAPPED)
    step = Names(MAPPED, "gallery__new")
    with pytest.raises(UserError, match="no longer has: its entries are mapped"):
        make_plan(open_store(uri), step, load_upgrade(place / "upgrade.json"), NEW, "random", None, object())
    command(monkeypatch, place, "reembed", *images(place), "--order", "norm", "--share", 0.25)
    lowest = {people.ids()[row] for row in np.argsort(np.linalg.norm(people.old, axis=1))[:15]}
    assert set(rows_of("lancedb", uri, "gallery__new")) == lowest
    expected = {entry: (OLD, vector) for entry, vector in zip(people.ids(), people.mapped(), strict=True)}
    expected |= {entry: (NEW, people.new[people.ids().index(entry)]) for entry in lowest}
    compare_with_dense(place, people, expected, people.new_query[:20])
    with pytest.raises(UserError, match="gallery__new__kept has the old vectors of gallery__new__mapped"):
        command(monkeypatch, place, "reembed")
    command(monkeypatch, place, "rollback")
    assert rows_of("lancedb", uri, MAPPED) == mapped and open_store(uri).tables() == ["gallery__new", MAPPED]


def test_mapping_needs_no_order(place, monkeypatch):
    """The order of upgrade.json is by a quality that the store does not have; the way back leaves nothing."""
    _, uri = make(place, forward=True)
    data = json.loads((place / "upgrade.json").read_text())
    data["order"] = {"name": "lowest detector score first", "quality": "detector score", "first": "lowest"}
    (place / "upgrade.json").write_text(json.dumps(data))
    command(monkeypatch, place, "reembed", "--limit", 10)
    command(monkeypatch, place, "rollback")
    assert open_store(uri).tables() == ["gallery"]


def test_another_map_does_not_continue(place, monkeypatch):
    """compare was run again between two runs: its versions are the same, and its map is not."""
    people, _ = make(place, forward=True)
    command(monkeypatch, place, "reembed", "--share", 0.5)
    people.forward *= 1.5
    write_upgrade(place, people, forward=True)
    with pytest.raises(UserError, match="begun with another upgrade.json: the map of the stored vectors was"):
        command(monkeypatch, place, "reembed")
    np.savez(place / "map.npz", weight=people.forward[:, :20], bias=people.offset[:20])
    with pytest.raises(UserError, match=r"map.npz next to it is another file"):
        command(monkeypatch, place, "reembed")


def test_vectors_without_a_direction_stay_and_are_not_found(place, monkeypatch, capsys):
    """More than the sample of the check sees; before and after the others are mapped."""
    people = People(COUNT)
    people.old[11] = 0
    _, uri = make(place, people, forward=True)
    monkeypatch.setattr("gallery.checks.SAMPLE", 2)
    expected = {entry: (OLD, vector) for entry, vector in zip(people.ids(), people.mapped(), strict=True) if entry != "p0011"}
    compare_with_dense(place, people, expected, people.new_query[:20])
    store, upgrade = open_store(uri), load_upgrade(place / "upgrade.json")
    searcher = Searcher(store, upgrade, names_of(store, upgrade, NEW, None), NEW, NEW)
    monkeypatch.setattr(store, "search", lambda table, queries, top: [(people.ids(), people.old)] * len(queries))    # as pgvector
    assert {hit.id for hit in searcher(people.new_query[:1], COUNT)[0]} == set(expected)
    command(monkeypatch, place, "reembed")
    assert "1 entries stay old: p0011 (its stored vector holds NaN" in capsys.readouterr().out
    assert set(rows_of("lancedb", uri, "gallery")) == {"p0011"}
    compare_with_dense(place, people, expected, people.new_query[:20])


def test_the_index_is_asked_for_candidates_of_which_the_best_are_hits(place, monkeypatch):
    """With 30 candidates of 600 entries, the best hit of every query is that of all products."""
    people = People(600)
    make(place, people, forward=True)
    monkeypatch.setattr(search, "MIN_CANDIDATES", 30)
    monkeypatch.setattr(search, "CANDIDATES", 1)
    scores = unit(people.new_query[:100].astype(float)) @ unit(people.mapped()).T
    assert [found[0].id for found in hits(place, people.new_query[:100])] == [people.ids()[row] for row in scores.argmax(1)]


def test_a_plan_of_a_map_needs_no_images_and_names_the_thresholds(place, monkeypatch, capsys):
    _, uri = make(place, forward=True)
    command(monkeypatch, place, "plan", "--json", "--rate", 1, "--writes", 100)
    plan = json.loads(capsys.readouterr().out)
    assert plan["days"] == pytest.approx({"embedding": 0, "writing": 0.6 / 86_400, "together": 0.6 / 86_400})
    assert plan["bytes_new"] == 60 * 48 * 4 and plan["order"] == "random"
    upgrade = load_upgrade(place / "upgrade.json")
    limits = [[upgrade.threshold(query, OLD, far) for query in (OLD, NEW)] for far in FARS]
    rows = [[f"FAR {far:g}", today, 1 - far, mapped, 1 - far] for far, (today, mapped) in zip(FARS, limits, strict=True)]
    assert [list(row.values()) for row in plan["thresholds"]] == rows
    data = json.loads((place / "upgrade.json").read_text())
    data["verdict"] = {NEW: {"answer": "better", "figure": "top-1", "difference": 0.114}}
    (place / "upgrade.json").write_text(json.dumps(data))
    command(monkeypatch, place, "plan")
    text = capsys.readouterr().out
    assert "no image is needed" in text and "'better' on the gallery of old: top-1 changes by +0.1140" in text
    for name, *numbers in rows:
        assert [name, *(f"{number:.4f}" for number in numbers)] in [[cell.strip() for cell in line.split("|")[1:-1]]
                                                                    for line in text.splitlines()]
    assert "nothing was written" in text and open_store(uri).tables() == ["gallery"]
    vectors = People(COUNT).old
    np.save(place / "old.npy", vectors)
    monkeypatch.setattr(gallery, "Images", lambda _: None)
    monkeypatch.setattr(gallery, "embedder", lambda *_: GivenVectors(place / "old.npy", place / "ids.txt"))
    command(monkeypatch, place, "plan", "--old-model", "OLD.onnx", "--images", place)
    assert "60 entries embedded again by old have a mean cosine of 1.000" in capsys.readouterr().out
