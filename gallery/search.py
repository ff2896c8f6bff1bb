"""Search in a gallery of which a part is re-embedded: both tables, each with the view that belongs to it, merged.

Hits are merged by comparable scores. An entry that is in both tables for a moment counts once, as the new
one. Hits have exact cosines of what the store's index found.
"""

from dataclasses import dataclass

import numpy as np

from gallery.names import Names, existing
from gallery.store import Id, Store, Table
from serving.upgrade import Upgrade, unit
from utils.errors import UserError


@dataclass(frozen=True)
class Hit:
    """An entry that is like a query.

    score: cosine of the query's view and the entry.  value: -log10 of the false accept rate of this score, which can be compared
    between versions.  accepted: at the false accept rate that was asked for, None: nobody asked.
    """

    id: Id
    version: str
    score: float
    value: float
    accepted: bool | None


class Searcher:
    """Queries of one version against both tables."""

    def __init__(self, store: Store, upgrade: Upgrade, names: Names, query: str, new: str):
        """query: the version that embedded the queries, the old or the new one.  UserError if there is no table to search."""
        self.store, self.upgrade, self.query = store, upgrade, query
        found = [(existing(store, names.old), upgrade.old), (existing(store, names.new), new)]
        self.tables = [(table, version) for table, version in found if table is not None and store.count(table)]
        if not self.tables:
            raise UserError(f"neither {names.old} nor {names.new} has entries; give another --collection")
        for table, version in self.tables:
            if (query, version) not in upgrade.pairs:
                raise UserError(f"queries of {query} cannot search entries of {version}, which {table.name} has; ask with "
                                f"{new}")
            if table.dim != upgrade.views[query, version]["dimension"]:
                raise UserError(f"{table.name} has vectors of {table.dim} dimensions, and queries of {query} are compared with "
                                f"entries of {version} in {upgrade.views[query, version]['dimension']}; give the upgrade.json of "
                                f"this gallery")

    def __call__(self, vectors: np.ndarray, top: int, far: float | None = None) -> list[list[Hit]]:
        """The best ``top`` hits of each query, the most alike first.  vectors: [Q, d] of the query version, of any norm."""
        found: list[list[Hit]] = [[] for _ in vectors]
        for table, version in self.tables:
            views = self.upgrade.view(vectors, self.query, version)
            others = [other for other, name in self.tables if name != version and version == self.upgrade.old]
            for hits, view, (ids, rows) in zip(found, views, self.nearest(table, others, views, top), strict=True):
                scores = unit(rows.astype(np.float64)) @ view.astype(np.float64) if ids else np.zeros(0)
                values = self.upgrade.comparable(scores, self.query, version)
                accepted = [None] * len(ids) if far is None else self.upgrade.accept(scores, self.query, version, far).tolist()
                hits += [Hit(*hit) for hit in zip(ids, [version] * len(ids), scores.tolist(), values.tolist(), accepted,
                                                  strict=True)]
        return [sorted(hits, key=lambda hit: (-hit.value, -hit.score, str(hit.id)))[:top] for hits in found]

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
