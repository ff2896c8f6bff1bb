"""What a re-embedding will cost, and what can be expected on the way; and the same on paper for any size."""

from dataclasses import dataclass

import numpy as np

from gallery.checks import Stored, check_new, check_old_model, check_source, check_stored, verdict_note
from gallery.names import Names
from gallery.order import in_words, read_order
from gallery.reembed import refuse_unit_norm
from gallery.sources import Source
from gallery.store import Store
from serving.upgrade import Upgrade
from utils.errors import UserError

BYTES = {"float16": 2, "float32": 4, "float64": 8}
DAY = 86_400            # seconds
ID_BYTES = 40           # of an id in the journal: a UUID as JSON
STEPS = np.linspace(0, 1, 11)


@dataclass(frozen=True)
class Plan:
    """Of a table: entries, how many have an image, bytes that are needed, and what was found in the checks."""

    entries: int
    order: str
    with_image: int | None
    bytes_new: int
    bytes_kept: int
    bytes_journal: int
    stored: Stored
    notes: list[str]


def make_plan(store: Store, names: Names, upgrade: Upgrade, new: str, kind: str, source: Source | None,
              old_source: Source | None) -> Plan:
    """Check everything and write nothing.  source: new vectors; old_source: the old model on the same images.  UserError."""
    table = store.table(names.old)
    ids = read_order(store, table, kind)
    stored = check_stored(store, table, upgrade, new, names, ids)
    refuse_unit_norm(kind, stored)
    store.check(table, stored.unit)
    notes, found = verdict_note(upgrade, new) + stored.notes, None
    if source is not None:
        check_new(source, upgrade, new)
        found = int(source.has(ids).sum())
        note = check_source(store, table, upgrade, new, source, ids, begins=True)
        notes += [note] if note else []
    if old_source is not None and names.mapped_before:
        raise UserError(f"--old-model makes vectors that {table.name} no longer has: its entries are mapped; leave it out")
    if old_source is not None:
        notes.append(check_old_model(store, table, old_source, ids, upgrade.old))
    size = BYTES[table.dtype]
    return Plan(len(ids), in_words(kind), found, len(ids) * upgrade.versions[new]["dimension"] * size,
                len(ids) * table.dim * size, len(ids) * ID_BYTES, stored, notes)


def expected(upgrade: Upgrade, new: str) -> dict[str, np.ndarray]:
    """{figure: expected mapped value at 0, 10 ... 100 % re-embedded} from the curves of upgrade.json."""
    out = {}
    for metric, curve in upgrade.data.get("curve", {}).get(new, {}).items():
        out[metric] = np.interp(STEPS, np.asarray(curve["share"], float), np.asarray(curve["mapped"], float))
    return out


def thresholds(upgrade: Upgrade, new: str) -> list[dict]:
    """{rate, threshold and share of genuine pairs or mated probes found, today and by queries of ``new`` on old entries}."""
    rows = []
    for kind, rate, hits in (("thresholds", "far", "tar"), ("search", "fpir", "tpir")):
        today = {row[rate]: row for row in upgrade.pairs[upgrade.old, upgrade.old][kind]}
        for row in upgrade.pairs[new, upgrade.old][kind]:
            before = today.get(row[rate], {})
            rows.append({"rate": f"{rate.upper()} {row[rate]:g}", "threshold today": before.get("threshold"),
                         "found today": before.get(hits), "threshold": row["threshold"], "found": row.get(hits)})
    return rows


def days(entries: float, rate: float | None, writes: float, workers: int) -> dict[str, float]:
    """{"embedding", "writing", "together": days}.  rate: images/s of a worker; writes: entries/s of the store for all workers.

    Workers embed at the same time, and each waits for its own writes; the store serves one after the other.
    """
    embedding = entries / (rate * workers) / DAY if rate else 0.0
    writing = entries / writes / DAY
    return {"embedding": embedding, "writing": writing, "together": max(embedding + writing / workers,
                                                                                       writing)}


def on_paper(entries: float, old_dim: int, new_dim: int, rate: float, writes: float, workers: int,
             size: int = 4) -> dict[str, float]:
    """Days, and GB of vectors: stored today, at the end with the kept ones, and of the journal and its maker's memory."""
    return days(entries, rate, writes, workers) | {
        "GB today": entries * old_dim * size / 1e9, "GB more until finish": entries * new_dim * size / 1e9,
        "GB journal": entries * ID_BYTES / 1e9}
