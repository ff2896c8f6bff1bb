"""Which tables of a store belong to an upgrade.

    NAME                    entries by the old model: the table that exists
    NAME__NEW               entries by the new model NEW, with the columns of NAME
    NAME__NEW__kept         old vectors of re-embedded entries, not searched, for a rollback
    NAME__NEW__journal      ranges of the order and their leases
"""

import hashlib
import re
from dataclasses import dataclass

from gallery.journal import Journal
from gallery.store import Store, Table, the_only
from serving.upgrade import Upgrade
from utils.errors import UserError

KEPT, JOURNAL = "__kept", "__journal"
LONGEST = 63            # bytes of a name in PostgreSQL


@dataclass(frozen=True)
class Names:
    """Names of the tables of an upgrade."""

    old: str
    new: str

    @property
    def kept(self) -> str:
        return self.new + KEPT

    @property
    def journal(self) -> str:
        return self.new + JOURNAL


def suffix(version: str) -> str:
    """What a version adds to the name of its table."""
    name = re.sub(r"\W", "_", version, flags=re.ASCII)
    return "__" + (name if len(name) <= 20 else f"{name[:13]}_{hashlib.sha256(version.encode()).hexdigest()[:6]}")


def names_of(store: Store, upgrade: Upgrade, new: str, collection: str | None) -> Names:
    """The tables of an upgrade to ``new``; collection: the old table, or None for the only one that can be it.  UserError."""
    tables, end = store.tables(), suffix(new)
    if end in (KEPT, JOURNAL, *(suffix(name) for name in (upgrade.old, *upgrade.new) if name != new)):
        raise UserError(f"the version {new} would share its table with another; give it another name in the comparison")
    if collection is None:
        own = [name for name in tables if not name.endswith((KEPT, end))]
        finished = [name.removesuffix(end) for name in tables if name.endswith(end)]
        collection = the_only(own or finished, None, "the store", "table of vectors", "--collection NAME")
    names = Names(collection, collection.removesuffix(suffix(upgrade.old)) + end)
    if len(names.journal.encode()) > LONGEST:
        raise UserError(f"the name {names.journal} has more than {LONGEST} bytes; rename the table {collection}")
    return names


def names_in_store(store: Store, collection: str | None) -> list[Names]:
    """The re-embedding that the store holds, as a list of one; none: an empty list.  UserError if there are several."""
    targets = [name.removesuffix(KEPT) for name in store.tables() if name.endswith(KEPT)]
    olds = {old_of(store, target): target for target in targets}
    if not targets:
        return []
    collection = the_only(list(olds), collection, "the store", "re-embedded table", "--collection NAME")
    return [Names(collection, olds[collection])]


def old_of(store: Store, target: str) -> str:
    """The old table of a new one, from the journal; if finish has removed that, the old table is done with, too."""
    journal = Journal(store, target + JOURNAL)
    return journal.head().collection if journal.exists() else target.rpartition("__")[0]


def existing(store: Store, name: str) -> Table | None:
    """The table, or None."""
    return store.table(name) if name in store.tables() else None


def pick_new(upgrade: Upgrade, new: str | None) -> str:
    """The new version: ``new``, or the only one that can search stored vectors.  UserError.

    A forward map compares mapped old entries, and the store has them as the old model made them.
    """
    able = [name for name in upgrade.new if upgrade.views[name, upgrade.old]["entry"] is None]
    if not able or new in upgrade.new and new not in able:
        raise UserError(f"{new or ' and '.join(upgrade.new)}: queries would be compared with old entries behind a forward map, "
                        f"and the store has these entries unmapped; choose a version that is compared as it is, or that maps "
                        f"queries: {', '.join(able) or 'upgrade.json has none, compare one with a backward map'}")
    return the_only(able, new, "upgrade.json", "new version", "--new NAME")


def load_upgrade(file) -> Upgrade:
    """The upgrade.json; UserError if it cannot be used."""
    try:
        return Upgrade.load(file)
    except FileNotFoundError as error:
        raise UserError(f"no file {file}; expected the upgrade.json that tools/compare/compare.py writes") from error
    except ValueError as error:
        raise UserError(str(error)) from error
