"""After and during a re-embedding: where it is, the way back, and the end."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from tqdm import tqdm

from gallery.journal import Head, Journal, Totals
from gallery.names import Names, existing
from gallery.store import Id, Store, Table
from utils.errors import UserError

BLOCK = 1000            # entries that move back at a time


@dataclass(frozen=True)
class Status:
    """Where a re-embedding is.  kept: old vectors that a rollback would bring back."""

    head: Head | None
    totals: Totals | None
    old: int
    new: int
    kept: int
    rolls_back: bool


def status(store: Store, names: Names) -> Status:
    journal = Journal(store, names.journal)
    old, new, kept = (0 if place is None else store.count(place)
                      for place in (existing(store, name) for name in (names.old, names.new, names.kept)))
    begun = journal.exists()
    return Status(journal.head() if begun else None, journal.totals() if begun else None, old, new, kept,
                  begun and journal.rolls_back())


def rollback(store: Store, names: Names) -> tuple[int, int]:
    """Bring back all kept old vectors; (entries brought back, entries that have only a new vector and stay in the new table).

    A row gets its old vector and the other columns as they are now.  UserError while a worker has a lease.
    """
    journal, kept = Journal(store, names.journal), existing(store, names.kept)
    if not journal.exists():
        if kept and store.count(kept):
            raise UserError(f"gallery.py finish has begun to remove the old vectors of {names.old}; there is no way back: run "
                            f"finish again")
        store.drop(names.kept)
        return 0, 0
    old, new = existing(store, names.old), existing(store, names.new)
    if old is None or new is None or kept is None:
        raise UserError(f"the store lacks {names.old}, {names.new} or {names.kept}; they are needed for a rollback")
    journal.start_rollback()
    back = 0
    ids = [entry for batch in store.scan(kept) for entry in batch.ids]
    with tqdm(total=len(ids), desc="rolling back", unit=" entries", disable=None) as bar:
        for block in blocks(ids):
            back += move_back(store, old, new, kept, block)
            bar.update(len(block))
    store.tidy(old)
    left = 0
    for table in (existing(store, name) for name in dict.fromkeys((names.new, names.by_model))):
        count = store.count(table) if table else 0
        if table and not count and not names.mapped_before:     # new people of a mapped gallery are enrolled in that table
            store.drop(table.name)
        left += count
    store.drop(names.journal)
    store.drop(names.kept)
    return back, left


def move_back(store: Store, old: Table, new: Table, kept: Table, ids: list[Id]) -> int:
    """One block: old rows are written, then new rows removed, then kept vectors.  The number of entries that moved.

    An id that the old table has never left it.  An id that is in neither table was removed by the owner, and stays removed.
    """
    found, vectors = store.get(kept, ids)
    still, present = set(store.get(old, found)[0]), set(store.get(new, found)[0])
    rows = [row for row, entry in enumerate(found) if entry in present - still]
    store.copy(new, old, [found[row] for row in rows], np.asarray(vectors)[rows])
    gone = sorted(present, key=str)
    store.delete(new, gone)
    store.delete(kept, found)
    return len(gone)


def finish(store: Store, names: Names) -> tuple[int, bool]:
    """Drop the kept old vectors, the journal, and the old table if it is empty; (vectors dropped, was the table dropped)."""
    journal = Journal(store, names.journal)
    old, kept = existing(store, names.old), existing(store, names.kept)
    dropped = store.count(kept) if kept else 0
    if journal.exists():
        if journal.rolls_back():
            raise UserError("a rollback of this gallery has begun; run gallery.py rollback again until it is complete")
        journal.refuse_workers("finish")
    empty = old is not None and store.count(old) == 0 and existing(store, names.new) is not None
    if empty:
        store.drop(names.old)
    elif old is not None:
        store.tidy(old)
    store.drop(names.journal)
    store.drop(names.kept)              # last: while it is there, finish can be run again
    return dropped, empty


def blocks(ids: list[Id]) -> Iterator[list[Id]]:
    for start in range(0, len(ids), BLOCK):
        yield ids[start:start + BLOCK]
