"""Which tables of a store belong to an upgrade.

    NAME                    entries by the old model: the table that exists
    NAME__NEW               entries by the new model NEW, with the columns of NAME
    NAME__NEW__kept         old vectors of re-embedded entries, not searched, for a rollback
    NAME__NEW__journal      ranges of the order and their leases
    NAME__NEW__mapped       entries whose stored vector a forward map has put into the new space, without their image

An upgrade by a forward map has two steps, each with kept vectors and a journal of its own: the stored vectors are mapped (NAME
to NAME__NEW__mapped), and later the mapped entries can be re-embedded from images (NAME__NEW__mapped to NAME__NEW).
"""

import hashlib
import re
from dataclasses import dataclass

from gallery.journal import Journal
from gallery.store import Store, Table, the_only
from serving.upgrade import Upgrade, VectorMap
from utils.errors import UserError

KEPT, JOURNAL, MAPPED = "__kept", "__journal", "__mapped"
LONGEST = 63            # bytes of a name in PostgreSQL


@dataclass(frozen=True)
class Names:
    """Names of the tables of an upgrade, or of one of the two steps of an upgrade by a forward map."""

    old: str
    new: str

    @property
    def mapped(self) -> str:
        """The entries behind a forward map; of an upgrade, not of a step."""
        return self.new + MAPPED

    @property
    def by_model(self) -> str:
        """The entries that the new model itself has embedded."""
        return self.new.removesuffix(MAPPED)

    @property
    def mapped_before(self) -> bool:
        """Of a step: whether it begins with mapped entries."""
        return self.old == self.new + MAPPED

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
    if end in (KEPT, JOURNAL, MAPPED, *(suffix(name) for name in (upgrade.old, *upgrade.new) if name != new)):
        raise UserError(f"the version {new} would share its table with another; give it another name in the comparison")
    if collection is None:
        own = [name for name in tables if not name.endswith((KEPT, end, end + MAPPED))]
        finished = {name.removesuffix(MAPPED).removesuffix(end) for name in tables if not name.endswith(KEPT)}
        collection = the_only(own or sorted(finished), None, "the store", "table of vectors", "--collection NAME")
    names = Names(collection, collection.removesuffix(suffix(upgrade.old)) + end)
    longest = Names(collection, names.mapped if forward_map(upgrade, new) else names.new).journal
    if len(longest.encode()) > LONGEST:
        raise UserError(f"the name {longest} has more than {LONGEST} bytes; rename the table {collection}")
    return names


def forward_map(upgrade: Upgrade, new: str) -> VectorMap | None:
    """The map of stored vectors to the space of ``new``; None: its queries are compared with stored vectors as they are."""
    return upgrade.views[new, upgrade.old]["entry"]


def step_of(store: Store, upgrade: Upgrade, new: str, names: Names, maps: bool) -> Names:
    """The tables that a plan or a reembed works on.  names: of the upgrade; maps: whether stored vectors are mapped.

    UserError if the other step of an upgrade by a forward map is not over.
    """
    if forward_map(upgrade, new) is None:
        return names
    mapping, images = Names(names.old, names.mapped), Names(names.mapped, names.new)
    step, other = (mapping, images) if maps else (images, mapping)
    if existing(store, other.kept):
        raise UserError(f"{other.kept} has the old vectors of {other.old}, which a rollback needs; end that step first, with "
                        f"gallery.py finish or gallery.py rollback")
    if not maps and existing(store, names.mapped) is None:
        raise UserError(f"queries of {new} are compared with stored vectors behind a forward map: map these first, by the same "
                        f"command without --images, --model and --vectors, and finish; then entries can be re-embedded")
    return step


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
    return journal.head().collection if journal.exists() else target.removesuffix(MAPPED).rpartition("__")[0]


def existing(store: Store, name: str) -> Table | None:
    """The table, or None."""
    return store.table(name) if name in store.tables() else None


def pick_new(upgrade: Upgrade, new: str | None) -> str:
    """The new version: ``new``, or the only one.  UserError."""
    return the_only(upgrade.new, new, "upgrade.json", "new version", "--new NAME")


def load_upgrade(file) -> Upgrade:
    """The upgrade.json; UserError if it cannot be used."""
    try:
        return Upgrade.load(file)
    except FileNotFoundError as error:
        raise UserError(f"no file {file}; expected the upgrade.json that tools/compare/compare.py writes") from error
    except ValueError as error:
        raise UserError(str(error)) from error
