"""A gallery in LanceDB: refusals before anything is written, images, a full disk, and numbers by hand."""

import json
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from gallery_lance import COUNT, NAMES, make, worker_of
from gallery_toys import NEW, OLD, People, fill, rows_of, write_upgrade

from gallery.back import finish, rollback, status
from gallery.names import load_upgrade, names_of
from gallery.order import read_order
from gallery.search import Searcher
from gallery.store import open_store
from tools.gallery import gallery
from utils.errors import UserError

pytest.importorskip("lancedb", reason="pip install -r requirements-stores.txt")
def command(monkeypatch, *words) -> None:
    monkeypatch.setattr(sys, "argv", ["gallery.py", *map(str, words)])
    gallery.main()


def change_upgrade(place, change) -> None:
    data = json.loads((place / "upgrade.json").read_text())
    change(data)
    (place / "upgrade.json").write_text(json.dumps(data))


def refused(place, match, kind="random", source=None) -> None:
    """Re-embedding is refused, and the store is what it was."""
    uri = str(place / "lance")
    before = rows_of("lancedb", uri, "gallery")
    with pytest.raises(UserError, match=match):
        worker_of(place, source).work(kind, 1.0)
    assert rows_of("lancedb", uri, "gallery") == before
    assert all(not rows_of("lancedb", uri, name) for name in open_store(uri).tables() if name != "gallery")


def test_an_upgrade_json_of_another_gallery_is_refused(place):
    people, _ = make(place)
    change_upgrade(place, lambda data: data["versions"][OLD].update(norm=[100, 150, 200]))
    refused(place, "a median norm of .* they are not of this model")
    write_upgrade(place, people, **{OLD: {"normalised": True}})
    refused(place, "describes old as normalised")
    write_upgrade(place, People(COUNT, old_dim=24))
    refused(place, "vectors of 32 dimensions, and old of upgrade.json makes 24")
    write_upgrade(place, People(COUNT, new_dim=40))
    refused(place, "the new vectors have 48 dimensions, and new of upgrade.json makes 40")
    (place / "upgrade.json").write_text("{}")
    with pytest.raises(UserError, match="its format is None, expected 1"):
        load_upgrade(place / "upgrade.json")
    with pytest.raises(UserError, match="no file .*missing.json"):
        load_upgrade(place / "missing.json")


def test_vectors_of_other_entries_are_refused(place):
    people, _ = make(place)
    np.save(place / "new.npy", np.roll(people.new, 1, axis=0))
    refused(place, "the new vectors do not belong to the entries")
    (place / "ids.txt").write_text("\n".join(["same"] * COUNT))
    with pytest.raises(UserError, match="59 ids of .* occur twice"):
        worker_of(place)


def test_stored_vectors_that_have_no_direction_are_refused(place):
    people = People(COUNT)
    people.old[7] = 0
    make(place, people)
    refused(place, "1 of 60 stored vectors of gallery hold NaN")


def test_ids_that_occur_twice_are_refused(place):
    people = People(COUNT)
    write_upgrade(place, people)
    fill("lancedb", str(place / "lance"), ["p1", *people.ids()[1:-1], "p1"], people.old)
    with pytest.raises(UserError, match="1 rows of gallery have the id of another row"):
        read_order(open_store(str(place / "lance")), open_store(str(place / "lance")).table("gallery"), "random")


def test_new_vectors_without_a_direction_leave_an_entry_old(place):
    people = People(COUNT)
    people.new[3], people.new[5] = 0, np.inf
    _, uri = make(place, people)
    result = worker_of(place).work("random", 1.0)
    assert result.moved == COUNT - 2 and set(rows_of("lancedb", uri, "gallery")) == {"p0003", "p0005"} == set(result.missing)


def test_unit_rows_stay_unit_rows_and_have_no_order_by_norm(place):
    people = People(COUNT)
    people.old /= np.linalg.norm(people.old, axis=1, keepdims=True)
    _, uri = make(place, people, old={"norm": [1, 5, 10], "normalised": False})
    refused(place, "the stored vectors all have norm 1", kind="norm")
    worker_of(place).work("random", 1.0)
    norms = [np.linalg.norm(row["vector"]) for row in rows_of("lancedb", uri, "gallery__new").values()]
    np.testing.assert_allclose(norms, 1, atol=1e-6)


@pytest.mark.parametrize("kind", ["norm", "quality"])
def test_the_order_is_the_lowest_first(place, kind):
    people, uri = make(place)
    worker_of(place).work(kind, 0.25)
    quality = np.linalg.norm(people.old, axis=1) if kind == "norm" else np.arange(COUNT)
    lowest = {people.ids()[row] for row in np.argsort(quality)[:15]}
    assert set(rows_of("lancedb", uri, "gallery__new")) == lowest


@pytest.mark.long
def test_a_run_with_another_upgrade_json_is_refused_until_a_rollback(place, monkeypatch, capsys):
    make(place)
    worker_of(place).work("random", 0.5)
    change_upgrade(place, lambda data: data["versions"][NEW].update(fingerprint="1" * 64))
    with pytest.raises(UserError, match="begun with another upgrade.json: the weights of the new version was None"):
        worker_of(place).work("random", 1.0)
    command(monkeypatch, "rollback", "--store", place / "lance")
    assert worker_of(place).work("random", 1.0).moved == COUNT


def test_the_limit_and_the_message_of_a_finish(place, monkeypatch, capsys):
    _, uri = make(place)
    given = ["--store", uri, "--upgrade", place / "upgrade.json", "--vectors", place / "new.npy", "--ids", place / "ids.txt"]
    command(monkeypatch, "reembed", *given, "--limit", 7)
    assert len(rows_of("lancedb", uri, "gallery__new")) == 7
    with pytest.raises(UserError, match="would remove 7 kept old vectors; 53 entries stay old in gallery; there is no way back"):
        command(monkeypatch, "finish", "--store", uri)
    command(monkeypatch, "status", "--store", uri, "--json")
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (found["old"], found["new"], found["kept"]) == (53, 7, 7)
    command(monkeypatch, "finish", "--store", uri, "--yes")
    with pytest.raises(UserError, match="no re-embedding; there is nothing to roll back"):
        command(monkeypatch, "rollback", "--store", uri)


def test_a_plan_writes_nothing_and_counts(place, monkeypatch, capsys):
    _, uri = make(place)
    np.save(place / "new.npy", np.load(place / "new.npy")[:50])
    (place / "ids.txt").write_text("\n".join(People(COUNT).ids()[:50]))
    command(monkeypatch, "plan", "--store", uri, "--upgrade", place / "upgrade.json", "--vectors", place / "new.npy", "--ids",
            place / "ids.txt", "--rate", 2, "--json")
    plan = json.loads(capsys.readouterr().out)
    assert (plan["entries"], plan["with_image"], plan["bytes_new"], plan["bytes_kept"]) == (60, 50, 60 * 48 * 4, 60 * 32 * 4)
    assert plan["days"]["embedding"] == pytest.approx(25 / 86_400)
    assert plan["expected"]["top-1"] == pytest.approx(np.linspace(0.6, 0.9, 11))
    assert open_store(uri).tables() == ["gallery"]


@pytest.mark.parametrize("old, new", [("old", ["a+b", "a-b"]), ("a-b", ["a+b"]), ("old", ["kept", "x"]), ("old", ["journal"]),
                                      ("old", ["mapped"])])
def test_two_versions_never_share_a_table(old, new):
    """Names that differ only in their punctuation, and those of the tables that this program makes."""
    store, upgrade = SimpleNamespace(tables=lambda: ["gallery"]), SimpleNamespace(old=old, new=new)
    if new[0] == "a+b":
        plain = SimpleNamespace(old="old", new=["a+b", "c"], views={("a+b", "old"): {"entry": None}})
        assert names_of(store, plain, "a+b", None).new == "gallery__a_b"
    with pytest.raises(UserError, match="would share its table with another"):
        names_of(store, upgrade, new[0], None)


def test_a_plan_says_what_reembed_would_refuse(place, monkeypatch, capsys):
    """Vectors of none of the entries; and a version that compare judged worse."""
    _, uri = make(place)
    words = ["plan", "--store", uri, "--upgrade", place / "upgrade.json", "--vectors", place / "new.npy", "--ids",
             place / "ids.txt"]
    (place / "ids.txt").write_text("\n".join(f"other{k}" for k in range(COUNT)))
    with pytest.raises(UserError, match="none of 60 sampled entries has a new vector; the first: .*no vector in .*--resize"):
        command(monkeypatch, *words)
    (place / "ids.txt").write_text("\n".join(People(COUNT).ids()))
    command(monkeypatch, *words)
    assert "warning" not in capsys.readouterr().out
    change_upgrade(place, lambda data: data.update(verdict={NEW: {"answer": "worse", "figure": "top-1"}}))
    command(monkeypatch, *words)
    assert f"warning: compare judged {NEW} 'worse' (top-1 on the gallery of {OLD})" in capsys.readouterr().out


def test_a_share_may_end_inside_a_range(place):
    _, uri = make(place)
    assert worker_of(place).work("random", 0.12).moved == 7         # ranges have three entries
    assert worker_of(place).work("random", 0.12).moved == 0
    assert worker_of(place).work("random", 0.2).moved == 5 and len(rows_of("lancedb", uri, "gallery__new")) == 12


def test_a_second_upgrade_begins_with_the_table_of_the_first(place, monkeypatch, capsys):
    people = People(COUNT)
    write_upgrade(place, people)
    fill("lancedb", str(place / "lance"), people.ids(), people.old, name="gallery__old")
    np.save(place / "new.npy", people.new)
    (place / "ids.txt").write_text("\n".join(people.ids()))
    assert worker_of(place).work("random", 0.5).moved == 30
    assert "gallery__new" in open_store(str(place / "lance")).tables()
    command(monkeypatch, "rollback", "--store", place / "lance")
    assert "30 entries have their old vectors again in gallery__old" in capsys.readouterr().out


def test_an_entry_in_both_tables_counts_once_and_the_new_one_wins(place):
    people, uri = make(place)
    worker = worker_of(place)
    tables = worker.begin("random")
    ids = people.ids()[:40]
    found, old = worker.store.get(tables.old, ids)
    worker.store.copy(tables.old, tables.new, found, people.new[[people.ids().index(entry) for entry in found]])
    compare_with_dense(worker, people, set(ids), 15)
    assert worker.work("random", 1.0).embedded == 20        # the others had been written
    assert rollback(worker.store, NAMES) == (COUNT, 0) and len(rows_of("lancedb", uri, "gallery")) == COUNT


def test_two_workers_never_get_the_same_range(place):
    """The second reads which ranges are free before the first takes one."""
    make(place)
    first, second = worker_of(place), worker_of(place)
    first.begin("random")
    original, taken = second.store.read_journal, []

    def raced(name, condition, columns):
        rows = original(name, condition, columns)
        if columns == ["number"] and not taken:
            taken.append(first.journal.claim(COUNT))
        return rows
    second.store.read_journal = raced
    assert second.journal.claim(COUNT).number == taken[0].number + 1


def dense(worker, people, row: int, new: set) -> dict:
    """{id: comparable score with the new query ``row``} by products in float64.  new: ids of the new entries."""
    out = {}
    for entry, name in enumerate(people.ids()):
        version, rows = (NEW, people.new) if name in new else (OLD, people.old)
        view = worker.upgrade.view(people.new_query[row], NEW, version).astype(float)
        out[name] = float(worker.upgrade.comparable(view @ rows[entry] / np.linalg.norm(rows[entry]), NEW, version))
    return out


def compare_with_dense(worker, people, new: set, top: int) -> None:
    """Every hit has its value, and the best ``top`` are found."""
    found = Searcher(worker.store, worker.upgrade, NAMES, NEW, NEW)(people.new_query[:30], top)
    for row, hits in enumerate(found):
        values = dense(worker, people, row, new)
        assert all(abs(hit.value - values[hit.id]) < 1e-4 and (hit.version == NEW) == (hit.id in new) for hit in hits)
        assert len({hit.id for hit in hits}) == top
        np.testing.assert_allclose([hit.value for hit in hits], sorted(values.values(), reverse=True)[:top], atol=1e-4)


def test_hits_of_both_tables_are_sorted_by_comparable_scores(place):
    people, _ = make(place)
    change_upgrade(place, lambda data: data["pairs"][2]["score_map"].update(scores=[-1, 0, 1], values=[0, 0.1, 1], slope=1))
    worker = worker_of(place)
    worker.work("quality", 0.5)                                 # half of the entries, whose scores have another scale
    compare_with_dense(worker, people, set(people.ids()[:COUNT // 2]), COUNT)


def test_a_store_that_does_not_keep_what_is_written_loses_nothing(place, monkeypatch):
    people, uri = make(place)
    worker = worker_of(place)
    monkeypatch.setattr(type(worker.store), "copy", lambda *_: None)
    with pytest.raises(UserError, match="the store does not give back what was written to gallery__new__kept"):
        worker.work("random", 1.0)
    assert set(rows_of("lancedb", uri, "gallery")) == set(people.ids())


def test_people_whom_the_owner_removed_stay_removed(place):
    people, uri = make(place)
    worker = worker_of(place)
    worker.work("random", 0.5)
    gone = sorted(rows_of("lancedb", uri, "gallery__new"))[0]
    worker.store.delete(worker.store.table("gallery__new"), [gone])
    assert rollback(worker.store, NAMES) == (29, 0)
    assert set(rows_of("lancedb", uri, "gallery")) == set(people.ids()) - {gone}


@pytest.mark.long
def test_a_rollback_that_is_killed_can_be_repeated(place, monkeypatch):
    _, uri = make(place)
    before, worker = rows_of("lancedb", uri, "gallery"), worker_of(place)
    worker.work("random", 1.0)
    store, original = open_store(uri), type(worker.store).delete
    monkeypatch.setattr(type(store), "delete", lambda *_: 1 / 0)        # after the old rows were written
    with pytest.raises(ZeroDivisionError):
        rollback(store, NAMES)
    monkeypatch.setattr(type(store), "delete", original)
    with pytest.raises(UserError, match="a rollback of this gallery has begun"):
        worker_of(place).work("random", 1.0)
    with pytest.raises(UserError, match="a rollback of this gallery has begun"):
        finish(store, NAMES)
    assert rollback(open_store(uri), NAMES) == (COUNT, 0) and rows_of("lancedb", uri, "gallery") == before


@pytest.mark.long
def test_entries_that_came_later_and_images_that_came_back_are_re_embedded(place):
    people, uri = make(place)
    np.save(place / "new.npy", people.new[:50])
    (place / "ids.txt").write_text("\n".join(people.ids()[:50]))
    assert len(worker_of(place).work("random", 1.0).missing) == 10
    import lancedb
    table = lancedb.connect(uri).open_table("gallery")
    table.add([{"id": "later", "name": "l", "vector": people.old[0].tolist(), "tags": None, "quality": 1.0}])
    np.save(place / "new.npy", np.concatenate([people.new, people.new[:1]]))
    (place / "ids.txt").write_text("\n".join([*people.ids(), "later"]))
    assert worker_of(place).work("random", 1.0).moved == 11
    assert status(open_store(uri), NAMES).totals.missing == 0
