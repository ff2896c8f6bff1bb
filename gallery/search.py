"""Search in a gallery of which a part is re-embedded: all its tables, each with the view that belongs to it, merged.

Hits are merged by comparable scores. An entry that is in two tables for a moment counts once, as the new one. Hits have exact
cosines of what the store's index found.

Behind a forward map x W + b of stored vectors x, an entry that is not mapped yet is mapped when it is found: q W' asks the index,
because q . (x W) = (q W') . x, and the candidates are ranked by the cosine of q and their mapped vector. So an entry has the same
score before and after it is mapped.
"""

from dataclasses import dataclass

import numpy as np

from gallery.names import Names, existing, forward_map
from gallery.sources import StoredVectors
from gallery.store import Id, Store, Table
from serving.upgrade import Upgrade, VectorMap, unit
from utils.errors import UserError

CANDIDATES, MIN_CANDIDATES = 10, 200        # entries for each hit, and at least, that are mapped when they are found


@dataclass(frozen=True)
class Hit:
    """An entry that is like a query.

    version: of the entry; of a mapped one the old version, whose thresholds these are.  score: cosine of the query's view and the
    entry.  value: -log10 of the false accept rate of this score, which can be compared between versions.  accepted: at the false
    accept rate that was asked for, None: nobody asked.
    """

    id: Id
    version: str
    score: float
    value: float
    accepted: bool | None


@dataclass(frozen=True)
class Place:
    """A table that is searched.  version: of its entries; map: still to be applied to them."""

    table: Table
    version: str
    map: VectorMap | None = None


class Searcher:
    """Queries of one version against all tables."""

    def __init__(self, store: Store, upgrade: Upgrade, names: Names, query: str, new: str):
        """query: the version that embedded the queries, the old or the new one.  UserError if there is no table to search."""
        self.store, self.upgrade, self.query = store, upgrade, query
        found = [(names.old, upgrade.old, forward_map(upgrade, query)), (names.mapped, upgrade.old, None), (names.new, new, None)]
        tables = [(existing(store, name), *rest) for name, *rest in found]
        self.places = [Place(table, *rest) for table, *rest in tables if table is not None and store.count(table)]
        if not self.places:
            raise UserError(f"neither {names.old} nor {names.new} has entries; give another --collection")
        for place in self.places:
            table, version = place.table, place.version
            if query == upgrade.old and table.name != names.old:
                raise UserError(f"queries of {query} cannot search entries of {new}, which {table.name} has; ask with {new}")
            dim = len(place.map.weight) if place.map else upgrade.views[query, version]["dimension"]
            if table.dim != dim:
                raise UserError(f"{table.name} has vectors of {table.dim} dimensions, and queries of {query} are compared with "
                                f"entries of {version} in {dim}; give the upgrade.json of this gallery")

    def __call__(self, vectors: np.ndarray, top: int, far: float | None = None) -> list[list[Hit]]:
        """The best ``top`` hits of each query, the most alike first.  vectors: [Q, d] of the query version, of any norm."""
        found: list[list[Hit]] = [[] for _ in vectors]
        for number, place in enumerate(self.places):
            version, views = place.version, self.upgrade.view(vectors, self.query, place.version)
            newer = [other.table for other in self.places[number + 1:]]
            for hits, view, (ids, rows) in zip(found, views, self.candidates(place, newer, views, top), strict=True):
                scores = unit(rows.astype(np.float64)) @ view.astype(np.float64) if ids else np.zeros(0)
                values = self.upgrade.comparable(scores, self.query, version)
                accepted = [None] * len(ids) if far is None else self.upgrade.accept(scores, self.query, version, far).tolist()
                hits += [Hit(*hit) for hit in zip(ids, [version] * len(ids), scores.tolist(), values.tolist(), accepted,
                                                  strict=True)]
        return [sorted(hits, key=lambda hit: (-hit.value, -hit.score, str(hit.id)))[:top] for hits in found]

    def candidates(self, place: Place, newer: list[Table], views: np.ndarray, top: int) -> list[tuple[list[Id], np.ndarray]]:
        """(ids, vectors as they are compared) for each view: entries of a table, the ``top`` nearest ones among them."""
        if place.map is None:
            return self.nearest(place.table, newer, views, top)
        asking = unit(views @ place.map.weight.T)
        out = []
        for ids, rows in self.nearest(place.table, newer, asking, max(CANDIDATES * top, MIN_CANDIDATES)):
            mapped, without = StoredVectors(place.map).vectors(ids, rows)
            keep = [row for row, entry in enumerate(ids) if entry not in without and mapped[row].any()]
            out.append(([ids[row] for row in keep], mapped[keep]))
        return out

    def nearest(self, table: Table, others: list[Table], views: np.ndarray, top: int) -> list[tuple[list[Id], np.ndarray]]:
        """The nearest ``top`` rows of a table that are in none of the ``others``, for each view."""
        out = []
        found = self.store.search(table, views, top)
        for view, (ids, rows) in zip(views, found, strict=True):
            count = top
            while True:
                twice = {entry for other in others for entry in self.store.get(other, ids)[0]}
                if len(ids) - len(twice) >= top or len(ids) < count:
                    break
                count += len(twice)
                ids, rows = self.store.search(table, view[None], count)[0]
            keep = [row for row, entry in enumerate(ids) if entry not in twice][:top]
            out.append(([ids[row] for row in keep], rows[keep]))
        return out
