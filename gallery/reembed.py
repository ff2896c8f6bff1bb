"""Re-embedding: an entry gets its new vector, then its old one is removed, by id, in the order of the journal.

For each block: the old vectors are kept (NAME__NEW__kept), the rows are written with new vectors (NAME__NEW), and the old rows
are removed (NAME). A process that is killed between two of these leaves entries in both tables for a while; search takes the new
one, and the next run removes the old one without embedding the image again. No entry is ever in neither table.
"""

from dataclasses import dataclass, field

import numpy as np
from tqdm import tqdm

from gallery.checks import Stored, check_new, check_source, check_stored, leave_out_bad, verdict_note
from gallery.journal import Head, Journal, Range
from gallery.names import Names, existing
from gallery.order import in_words, read_order
from gallery.sources import Source
from gallery.store import Id, Store, Table, ordered
from serving.upgrade import Upgrade
from utils.errors import UserError


@dataclass
class Result:
    """What a worker did."""

    moved: int = 0
    embedded: int = 0
    missing: dict[Id, str] = field(default_factory=dict)    # why an entry stayed old
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Tables:
    """The tables of a re-embedding.  unit: new vectors are stored with norm 1."""

    old: Table
    new: Table
    kept: Table
    unit: bool


class Worker:
    """Re-embeds leased ranges until a share of the order is done.  Several workers may run at a time."""

    def __init__(self, store: Store, upgrade: Upgrade, new: str, names: Names, source: Source, lease: float):
        """lease: seconds that a range belongs to a worker after each block."""
        self.store, self.upgrade, self.new, self.names, self.source = store, upgrade, new, names, source
        self.journal, self.result = Journal(store, names.journal, lease), Result()
        self.cut: set[int] = set()          # ranges that were done up to the share, and stay open

    def begin(self, kind: str) -> Tables:
        """Check everything, and write the journal unless another worker or an earlier run has.  kind: of the order."""
        check_new(self.source, self.upgrade, self.new)
        table = existing(self.store, self.names.old)
        if table is None:
            raise UserError(f"there is no table {self.names.old}; it was removed when its upgrade was finished, or it has "
                            f"another name: give --collection")
        if self.journal.exists():
            check_head(self.journal.head(), self.head(table, in_words(kind), 0))
            stored = self.stored_now(table)
        else:
            ids = read_order(self.store, table, kind)
            stored = check_stored(self.store, table, self.upgrade, self.new, self.names, ids)
            self.check_source(table, ids, begins=True)
            refuse_unit_norm(kind, stored)
            self.store.check(table, stored.unit)
            self.refuse_old_target()
            self.tables(table, stored)
            self.journal.create(self.head(table, in_words(kind), len(ids)), ids)
        self.result.notes += verdict_note(self.upgrade, self.new) + stored.notes
        return self.tables(table, stored)

    def refuse_old_target(self) -> None:
        """UserError if the new table is of another dimension."""
        target = existing(self.store, self.names.new)
        if target is not None and target.dim != self.source.dim:
            raise UserError(f"the table {self.names.new} has {target.dim} dimensions and {self.new} makes {self.source.dim}; it "
                            f"belongs to another model: rename it or the version")

    def stored_now(self, table: Table) -> Stored:
        """The check of stored vectors once a part of them has moved: of the kept ones, too."""
        kept = existing(self.store, self.names.kept)
        for place in (table, kept):
            ids = next((batch.ids for batch in self.store.scan(place)), []) if place else []
            if place and ids:
                self.check_source(place, ids)
                return check_stored(self.store, place, self.upgrade, self.new, self.names, ids)
        raise UserError(f"the tables {table.name} and {self.names.kept} have no entries; there is nothing to re-embed")

    def tables(self, table: Table, stored: Stored) -> Tables:
        new = self.store.create(self.names.new, table, self.source.dim, only_vectors=False)
        self.store.create(self.names.by_model, table, self.upgrade.versions[self.new]["dimension"], only_vectors=False)
        kept = self.store.create(self.names.kept, table, table.dim, only_vectors=True)
        return Tables(table, new, kept, stored.unit or self.upgrade.versions[self.new]["normalised"])

    def head(self, table: Table, order: str, entries: int) -> Head:
        old, new = self.upgrade.versions[self.upgrade.old], self.upgrade.versions[self.new]
        form = self.upgrade.data["views"][self.new][self.upgrade.old]["entry"]
        return Head(self.names.old, self.names.new, self.upgrade.old, self.new, table.dim, self.source.dim, old["fingerprint"],
                    new["fingerprint"], order, entries, form.get("sha256"))

    def work(self, kind: str, share: float, limit: int | None = None) -> Result:
        """Re-embed the first ``share`` of the order, or ``limit`` images.  UserError if anything does not fit."""
        tables = self.begin(kind)
        before = self.open_ranges(tables, share)
        with tqdm(total=before, desc="re-embedding", unit=" entries", disable=None) as bar:
            while limit is None or self.result.embedded < limit:
                leased = self.journal.claim(before, self.cut)
                if leased is None:
                    break
                bar.update(max(0, leased.place - bar.n))
                self.do_range(tables, leased, before, limit, bar)
        if not self.journal.totals().leased:            # the last worker
            for table in (tables.old, tables.new, tables.kept):
                self.store.tidy(table)
        return self.result

    def open_ranges(self, tables: Tables, share: float) -> int:
        """The place in the order at which this run ends.  Entries that had no image, or that came later, get another chance."""
        totals = self.journal.totals()
        if totals.done == totals.ranges:
            self.journal.reopen()
            if share == 1 and self.store.count(tables.old) > totals.missing:
                listed = set(self.journal.all_ids())
                later = [entry for batch in self.store.scan(tables.old) for entry in batch.ids if entry not in listed]
                if later:
                    self.journal.append(later)
                    totals = self.journal.totals()
        return int(np.round(share * totals.entries))

    def do_range(self, tables: Tables, leased: Range, before: int, limit: int | None, bar: tqdm) -> None:
        """Move the entries of a leased range that are before the place ``before``, and give it back."""
        ids, missing = leased.ids[:before - leased.place], 0
        for start in range(0, len(ids), self.source.block):
            block = ids[start:start + self.source.block]
            if limit is not None:
                block = block[:max(0, limit - self.result.embedded)]
            absent = self.move(tables, leased, block)
            if absent is None:
                return
            missing += absent
            bar.update(len(block))
            if limit is not None and self.result.embedded >= limit and start + len(block) < len(leased.ids):
                self.journal.release(leased.number, done=False, missing=missing)
                return
        if len(ids) < len(leased.ids):
            self.cut.add(leased.number)
        self.journal.release(leased.number, done=len(ids) == len(leased.ids), missing=missing)

    def move(self, tables: Tables, leased: Range, ids: list[Id]) -> int | None:
        """Re-embed the entries of a block that are still old; how many of them have no image.  None: another has the range."""
        store = self.store
        ids, stored = store.get(tables.old, ids)
        twice = set(store.get(tables.new, ids)[0])          # a run was killed, or they were enrolled again: the new ones stay
        waiting = [entry for entry in ids if entry not in twice]
        place = {entry: row for row, entry in enumerate(ids)}
        vectors, without = self.source.vectors(waiting, stored[[place[entry] for entry in waiting]])
        leave_out_bad(vectors, waiting, without)
        good = [row for row, entry in enumerate(waiting) if entry not in without]
        chosen = [waiting[row] for row in good]
        if not self.journal.renew(leased.number):
            return None
        gone = [*chosen, *twice]
        self.write(tables.old, tables.kept, gone, stored[[place[entry] for entry in gone]])
        self.write(tables.old, tables.new, chosen, unit(vectors[good]) if tables.unit else vectors[good])
        store.delete(tables.old, gone)
        self.result.moved, self.result.embedded = self.result.moved + len(gone), self.result.embedded + len(chosen)
        self.result.missing |= without
        return len(without)

    def write(self, source: Table, target: Table, ids: list[Id], vectors: np.ndarray) -> None:
        """Copy rows with other vectors and read them again; UserError if the store does not give back what was written."""
        self.store.copy(source, target, ids, vectors)
        found, there = self.store.get(target, ids)
        lost = set(ids) - set(found)
        if lost and self.store.get(source, list(lost))[0] or not np.array_equal(there, ordered(ids, found, vectors.astype(
                target.dtype))):
            raise UserError(f"the store does not give back what was written to {target.name}; the old entries were not removed: "
                            f"check its disk and its log, and run the same command again")

    def check_source(self, table: Table, ids: list[Id], begins: bool = False) -> None:
        note = check_source(self.store, table, self.upgrade, self.new, self.source, ids, begins)
        self.result.notes += [note] if note else []


def unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def refuse_unit_norm(kind: str, stored: Stored) -> None:
    if kind == "norm" and stored.unit:
        raise UserError("the order is the lowest norm of the old vectors first, and the stored vectors all have norm 1; give "
                        "--order random, or --order COLUMN with a column of qualities")


def check_head(begun: Head, now: Head) -> None:
    """UserError if a re-embedding was begun with another upgrade.json."""
    for what, one, two in (("old version", begun.old, now.old), ("new version", begun.new, now.new),
                           ("dimensions of the old version", begun.old_dim, now.old_dim),
                           ("dimensions of the new version", begun.new_dim, now.new_dim),
                           ("weights of the old version", begun.old_fingerprint, now.old_fingerprint),
                           ("weights of the new version", begun.new_fingerprint, now.new_fingerprint),
                           ("map of the stored vectors", begun.map, now.map)):
        if one != two:
            raise UserError(f"this re-embedding was begun with another upgrade.json: the {what} was {one}, now it is {two}; give "
                            f"the first file, or run gallery.py rollback before a new start")
