"""The journal of a re-embedding, a table in the store: ranges of the order, which workers lease, and what became of them.

Row -1 is the head: what is re-embedded to what, as JSON. A range is a row with the ids of up to 1,000 entries in the order. A
worker leases a range for some minutes, and again after each block. When the lease is over, another worker may take the range: the
tables show what has been moved, so nothing is done twice.
"""

import json
import secrets
import time
from collections.abc import Collection
from dataclasses import asdict, dataclass, field

from gallery.store import Id, Row, Store
from utils.errors import UserError

MAX_IDS = 1000          # entries of a range
MAX_BYTES = 60_000      # of the ids of a range as JSON; Milvus stores 65,535
MIN_RANGES = 20         # as far as there are entries
HEAD = -1
OPEN, DONE, RUNNING, ROLLBACK = 0, 1, 2, 3      # of a range: the first two; of the head: the others
TRIES = 64              # ranges that a worker tries to lease before it gives up
LONGEST_OWNER = 62      # bits


@dataclass(frozen=True)
class Head:
    """What a re-embedding does."""

    collection: str             # the old table
    target: str                 # the new table
    old: str                    # version that embedded the old table
    new: str
    old_dim: int
    new_dim: int
    old_fingerprint: str | None
    new_fingerprint: str | None
    order: str                  # in words
    entries: int                # when it began
    map: str | None = None      # checksum of a forward map


@dataclass(frozen=True)
class Range:
    """A leased range.  place: of its first entry in the order; missing: entries that had no usable image last time."""

    number: int
    place: int
    ids: list[Id]


@dataclass
class Totals:
    """Sums over the ranges."""

    ranges: int = 0
    done: int = 0
    leased: int = 0
    missing: int = 0
    entries: int = 0
    until: float = field(default=0.0)       # when the last lease ends, seconds since 1970


class Journal:
    """The journal in a store.  ``owner``: a random number of this worker."""

    def __init__(self, store: Store, name: str, lease: float = 300.0):
        """lease: seconds."""
        self.store, self.name, self.lease = store, name, lease
        self.owner = secrets.randbits(LONGEST_OWNER) + 1

    def create(self, head: Head, ids: list[Id]) -> bool:
        """Write the journal; False if there is one.  ids: of all entries, in the order."""
        return self.store.create_journal(self.name, [head_row(head), *range_rows(ids, 0, 0)])

    def append(self, ids: list[Id]) -> None:
        """More ranges behind those that exist."""
        rows = self.store.read_journal(self.name, f"number > {HEAD}", ["number", "place", "size"])
        number = max((row["number"] for row in rows), default=-1) + 1
        place = max((row["place"] + row["size"] for row in rows), default=0)
        self.store.append_journal(self.name, range_rows(ids, number, place))

    def reopen(self) -> None:
        """Ranges with entries that had no image are open again."""
        for row in self.store.read_journal(self.name, f"number > {HEAD} and missing > 0 and done > {OPEN}", ["number"]):
            self.store.update_journal(self.name, exactly(row["number"]) + f" and done > {OPEN}", {"done": OPEN})

    def all_ids(self) -> list[Id]:
        """The ids of all ranges."""
        rows = self.store.read_journal(self.name, f"number > {HEAD}", ["ids"])
        return [entry for row in rows for entry in json.loads(row["ids"])]

    def exists(self) -> bool:
        return self.store.has_journal(self.name)

    def head(self) -> Head:
        return Head(**json.loads(self.store.read_journal(self.name, exactly(HEAD), ["ids"])[0]["ids"]))

    def rolls_back(self) -> bool:
        return self.store.read_journal(self.name, exactly(HEAD), ["done"])[0]["done"] == ROLLBACK

    def start_rollback(self) -> None:
        """From now on no worker gets a range.  UserError while one has a lease."""
        self.store.update_journal(self.name, exactly(HEAD), {"done": ROLLBACK})
        self.refuse_workers("a rollback")

    def refuse_workers(self, what: str) -> None:
        totals = self.totals()
        if totals.leased:
            raise UserError(f"{totals.leased} ranges are leased by workers; {what} must be alone: stop them, or wait up to "
                            f"{max(1, totals.until - time.time()):.0f} s until the leases of killed workers are over, and run it "
                            f"again")

    def totals(self) -> Totals:
        out, now = Totals(), time.time()
        for row in self.store.read_journal(self.name, f"number > {HEAD}", ["size", "done", "until", "missing"]):
            leased = row["done"] == OPEN and row["until"] > now
            out.ranges, out.done, out.leased = out.ranges + 1, out.done + (row["done"] == DONE), out.leased + leased
            out.missing, out.entries = out.missing + row["missing"], out.entries + row["size"]
            out.until = max(out.until, row["until"] if leased else 0)
        return out

    def claim(self, before: int, skip: Collection[int] = ()) -> Range | None:
        """Lease the first free range whose first entry has a place below ``before``; None if there is none.

        skip: numbers of ranges that this worker does not want.
        """
        if self.rolls_back():
            raise UserError("a rollback of this gallery has begun; run gallery.py rollback again until it is complete")
        free = f"done < {DONE} and place < {before} and until < {time.time()}"
        rows = self.store.read_journal(self.name, f"number > {HEAD} and {free}", ["number"])
        for number in sorted({row["number"] for row in rows} - set(skip))[:TRIES]:
            lease = {"owner": self.owner, "until": time.time() + self.lease}
            if self.store.update_journal(self.name, f"{exactly(number)} and {free}", lease):
                row = self.store.read_journal(self.name, exactly(number), ["place", "ids"])[0]
                return Range(number, row["place"], json.loads(row["ids"]))
        return None

    def mine(self, number: int) -> str:
        return f"{exactly(number)} and owner >= {self.owner} and owner <= {self.owner}"

    def renew(self, number: int) -> bool:
        """Lease the range for as long again; False if another worker has it."""
        return self.store.update_journal(self.name, self.mine(number), {"until": time.time() + self.lease})

    def release(self, number: int, done: bool, missing: int) -> None:
        """Give a range back."""
        self.store.update_journal(self.name, self.mine(number), {"until": 0.0, "owner": 0, "missing": missing,
                                                                 "done": DONE if done else OPEN})


def exactly(number: int) -> str:
    """The condition of one row, in the words that all stores understand."""
    return f"number >= {number} and number <= {number}"


def head_row(head: Head) -> Row:
    return {"number": HEAD, "place": 0, "size": 0, "done": RUNNING, "owner": 0, "until": 0.0, "missing": 0,
            "ids": json.dumps(asdict(head))}


def range_rows(ids: list[Id], number: int, place: int) -> list[Row]:
    """The rows of these entries, from that number and place on."""
    longest = max((len(json.dumps(entry).encode()) + 2 for entry in ids), default=1)
    size = max(1, min(MAX_IDS, MAX_BYTES // longest, -(-len(ids) // MIN_RANGES)))
    return [{"number": number + k, "place": place + start, "size": len(ids[start:start + size]), "done": OPEN, "owner": 0,
             "until": 0.0, "missing": 0, "ids": json.dumps(ids[start:start + size])}
            for k, start in enumerate(range(0, len(ids), size))]
