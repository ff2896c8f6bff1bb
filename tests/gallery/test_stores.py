"""What each store must do: ids, float16, metadata; several workers; servers that stop; people whom the new model enrols."""

import os
import time
from pathlib import Path

import numpy as np
import pytest
from gallery_lance import make, worker_of
from gallery_toys import NEW, OLD, MilvusServer, People, PostgresServer, fill, rows_of, write_upgrade
from processes import start

from gallery.back import finish, rollback, status
from gallery.journal import exactly
from gallery.names import Names, load_upgrade, names_of
from gallery.reembed import Worker
from gallery.search import Searcher
from gallery.sources import GivenVectors
from gallery.store import open_store
from utils.errors import UserError

pytestmark = pytest.mark.long
NAMES = Names("gallery", "gallery__new")


class Setting:
    """A gallery in a store, its upgrade.json, and a file of new vectors."""

    def __init__(self, kind, uri, folder, ids=None, count=120, half=False, missing=()):
        self.kind, self.uri, self.folder, self.people = kind, uri, folder, People(count)
        self.ids = ids or self.people.ids()
        self.upgrade_file = write_upgrade(folder, self.people)
        self.upgrade = load_upgrade(self.upgrade_file)
        fill(kind, uri, self.ids, self.people.old, half=half)
        rows = [row for row in range(count) if row not in missing]
        np.save(folder / "new.npy", self.people.new[rows])
        (folder / "ids.txt").write_text("\n".join(str(self.ids[row]) for row in rows))

    def worker(self, lease=60.0, uri=None) -> Worker:
        store = open_store(uri or self.uri)
        return Worker(store, self.upgrade, NEW, names_of(store, self.upgrade, NEW, "gallery"),
                      GivenVectors(self.folder / "new.npy", self.folder / "ids.txt"), lease)

    def search(self, queries, top=3):
        store = open_store(self.uri)
        return Searcher(store, self.upgrade, NAMES, NEW, NEW)(queries, top)

    def everyone(self) -> None:
        """Nobody is lost and nobody is in two tables."""
        old, new = (set(rows_of(self.kind, self.uri, name)) for name in ("gallery", "gallery__new"))
        assert old | new == set(self.ids) and not old & new


def identifiers(name: str, count: int, kind: str) -> list:
    import uuid
    if name == "numbers":
        return [2**40 + 7 * row for row in range(count)]
    if name == "uuid":
        return [str(uuid.UUID(int=row * 2**90 + row)) for row in range(count)]
    if kind == "milvus":            # its client cannot iterate over ids with quotes or backslashes
        return [f"O'Brien {row} ä%" for row in range(count)]
    return [f"O'Brien \"{row}\" \\ ä%" for row in range(count)]


@pytest.mark.parametrize("name", ["numbers", "uuid", "odd texts"])
def test_ids_are_those_of_the_store(kind, uri, tmp_path, name):
    made = Setting(kind, uri, tmp_path, identifiers(name, 120, kind))
    before = rows_of(kind, uri, "gallery")
    assert made.worker().work("random", 0.5).moved == 60
    made.everyone()
    hits = made.search(made.people.new_query[:60], top=120)
    assert all(sorted(map(str, (hit.id for hit in found))) == sorted(map(str, made.ids)) for found in hits)
    assert {type(hit.id) for hit in hits[0]} == {type(made.ids[0])}
    assert rollback(open_store(uri), NAMES) == (60, 0) and rows_of(kind, uri, "gallery") == before


@pytest.mark.parametrize("kind", ["lancedb", "postgres"], indirect=True)       # Milvus Lite has no float16
def test_float16_comes_back_to_the_bit(kind, uri, tmp_path):
    made = Setting(kind, uri, tmp_path, half=True)
    before, worker = rows_of(kind, uri, "gallery"), made.worker()
    worker.work("random", 1.0)
    assert any("float16" in note for note in worker.result.notes)
    rows = rows_of(kind, uri, "gallery__new")
    assert all(np.array_equal(np.float16(rows[entry]["vector"]), made.people.new[row].astype(np.float16))
               for row, entry in enumerate(made.ids))
    rollback(open_store(uri), NAMES)
    assert rows_of(kind, uri, "gallery") == before


def work(made: Setting, lease: float) -> None:
    """In a process of its own."""
    out = made.folder / str(os.getpid())
    try:
        out.write_text(str(made.worker(lease).work("random", 1.0).moved))
    except Exception as error:
        out.write_text(str(error))


def test_two_workers_share_the_ranges(kind, uri, tmp_path):
    made = Setting(kind, uri, tmp_path, count=400)
    processes = [start(work, made, 60.0) for _ in range(2)]
    for process in processes:
        process.join()
    moved = [(tmp_path / str(process.pid)).read_text() for process in processes]
    assert all(text.isdecimal() for text in moved), moved
    assert sum(map(int, moved)) == 400
    made.everyone()
    found = status(open_store(uri), NAMES)
    assert (found.old, found.new, found.kept, found.totals.done) == (0, 400, 400, found.totals.ranges)


def test_a_range_of_a_dead_worker_is_taken_over_and_a_slow_worker_writes_nothing(kind, uri, tmp_path):
    made = Setting(kind, uri, tmp_path)
    slow = made.worker(lease=0.5)
    tables = slow.begin("random")
    leased = slow.journal.claim(120)
    with pytest.raises(UserError, match="1 ranges are leased"):
        rollback(open_store(uri), NAMES)
    time.sleep(0.6)
    with pytest.raises(UserError, match="a rollback of this gallery has begun"):
        slow.journal.claim(120)
    assert rollback(open_store(uri), NAMES) == (0, 0)
    tables = slow.begin("random")
    leased = slow.journal.claim(120)
    time.sleep(0.6)
    other = made.worker()
    assert other.journal.claim(120) == leased
    assert slow.move(tables, leased, leased.ids) is None and not rows_of(kind, uri, "gallery__new")
    assert other.move(tables, leased, leased.ids) == 0
    made.everyone()


def test_people_of_the_new_model_are_found_and_stay_after_a_rollback(kind, uri, tmp_path):
    made = Setting(kind, uri, tmp_path, missing=(3, 4))
    worker = made.worker()
    missing = worker.work("random", 0.1).missing
    fill_more(made)
    missing |= made.worker().work("random", 1.0).missing
    assert missing.keys() == {made.ids[3], made.ids[4]}
    assert made.search(made.people.new_query[-1:])[0][0].id == "stranger"
    assert set(rows_of(kind, uri, "gallery")) == {made.ids[3], made.ids[4]}
    assert status(open_store(uri), NAMES).totals.missing == 2
    assert rollback(open_store(uri), NAMES) == (118, 1)
    assert set(rows_of(kind, uri, "gallery__new")) == {"stranger"} and len(rows_of(kind, uri, "gallery")) == 120
    assert made.search(made.people.new_query[-1:])[0][0].id == "stranger"
    assert made.worker().work("random", 1.0).moved == 118
    assert finish(open_store(uri), NAMES) == (118, False)
    assert sorted(open_store(uri).tables()) == ["gallery", "gallery__new"]


def fill_more(made: Setting) -> None:
    """Enrol a stranger by the new model."""
    row = made.people.new_query[-1]
    if made.kind == "lancedb":
        import lancedb
        import pyarrow as pa
        table = lancedb.connect(made.uri).open_table("gallery__new")
        table.add(pa.Table.from_pylist([{"id": "stranger", "name": "x", "vector": row.tolist(), "tags": None, "quality": 0.0}],
                                       schema=table.schema))
    elif made.kind == "postgres":
        import psycopg
        with psycopg.connect(made.uri, autocommit=True) as connection:
            connection.execute("INSERT INTO gallery__new (id, name, vector) VALUES ('stranger', 'x', %s)", (str(row.tolist()),))
    else:
        from pymilvus import MilvusClient
        MilvusClient(made.uri).insert("gallery__new", [{"id": "stranger", "name": "x", "vector": row.tolist(), "quality": None}])


def power_cut(made: Setting, pid: int, number: int) -> None:
    """A worker in a process of its own, whose server ends by a signal at the third removal; its error goes to folder/sentence."""
    worker, calls = made.worker(lease=1.0), []
    original = worker.store.delete

    def stopped(*args):
        calls.append(args)
        if len(calls) == 3:
            os.kill(pid, number)
            while Path(f"/proc/{pid}").exists() and Path(f"/proc/{pid}/stat").read_text().rsplit(")")[-1].split()[0] != "Z":
                time.sleep(0.05)
        return original(*args)
    worker.store.delete = stopped
    try:
        worker.work("random", 1.0)
    except UserError as error:
        (made.folder / "sentence").write_text(str(error))


@pytest.mark.parametrize("kind", ["postgres", "milvus"], indirect=True)
def test_a_server_that_stops_loses_nothing(kind, tmp_path):
    server = PostgresServer() if kind == "postgres" else MilvusServer(tmp_path / "milvus.db")
    try:
        made = Setting(kind, server.uri, tmp_path, count=200)
        # In this process, gRPC would wait longer and longer before it tries the address of the dead server again.
        start(power_cut, made, server.pid, server.power_cut).join()
        assert "nothing is lost: repair the store and run the same command again" in (tmp_path / "sentence").read_text()
        server.start()
        time.sleep(1.1)
        old, new = (set(rows_of(kind, made.uri, name)) for name in ("gallery", "gallery__new"))
        assert old | new == set(made.ids) and len(old & new) == 10
        both = made.search(made.people.new_query[:100], top=200)
        assert all(len(found) == 200 == len({hit.id for hit in found}) for found in both)
        assert all(hit.version == NEW for hit in both[0] if hit.id in old & new)
        again = made.worker().work("random", 1.0)
        assert (again.moved, again.embedded) == (200 - 20, 200 - 30)        # ten had their new vectors already
        made.everyone()
    finally:
        server.close()


def test_a_store_without_its_package_names_the_line_that_installs_it(monkeypatch, tmp_path):
    import sys
    for package, uri, line in (("lancedb", str(tmp_path), "pip install lancedb"), ("psycopg", "postgresql://x/y", "psycopg"),
                               ("pymilvus", "http://127.0.0.1:1", "pymilvus==")):
        monkeypatch.setitem(sys.modules, package, None)
        with pytest.raises(UserError, match=line):
            open_store(uri)


@pytest.mark.parametrize("kind", ["postgres"], indirect=True)
def test_a_foreign_key_to_the_table_is_refused(kind, uri, tmp_path):
    import psycopg
    made = Setting(kind, uri, tmp_path)
    with psycopg.connect(uri, autocommit=True) as connection:
        connection.execute("CREATE TABLE visits (person text REFERENCES gallery(id) ON DELETE CASCADE)")
    with pytest.raises(UserError, match="visits has a foreign key to gallery"):
        made.worker().work("random", 1.0)
    assert open_store(uri).tables() == ["gallery"] and OLD


def fill_the_disk(place, size: int) -> None:
    """In a process of its own: no file may become longer than ``size`` bytes, as on a full disk."""
    import resource
    worker = worker_of(place)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
    try:
        worker.work("random", 1.0)
    except UserError as error:
        (place / "error.txt").write_text(str(error)[:200])


def test_a_full_disk_loses_nothing(place):
    pytest.importorskip("lancedb", reason="pip install -r requirements-stores.txt")
    people = People(400)
    people.ids = lambda: [f"{row}{'x' * 1000}" for row in range(400)]
    people, uri = make(place, people)
    worker_of(place).work("random", 0.25)
    process = start(fill_the_disk, place, 12_000)
    process.join()
    assert "the store" in (place / "error.txt").read_text() and "failed" in (place / "error.txt").read_text()
    old, new = (set(rows_of("lancedb", uri, name)) for name in ("gallery", "gallery__new"))
    assert old | new == set(people.ids()) and len(new) >= 100
    store = open_store(uri)
    for row in store.read_journal(NAMES.journal, "number > -1 and until > 0", ["number"]):     # the lease of the ended worker
        store.update_journal(NAMES.journal, exactly(row["number"]), {"until": time.time() - 1})
    worker_of(place).work("random", 1.0)
    assert set(rows_of("lancedb", uri, "gallery__new")) == set(people.ids()) and not rows_of("lancedb", uri, "gallery")
