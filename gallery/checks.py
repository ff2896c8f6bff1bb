"""What is checked before anything is written: that the stored vectors, the new vectors and upgrade.json belong together."""

from dataclasses import dataclass

import numpy as np

from gallery.names import Names
from gallery.sources import Source, StoredVectors
from gallery.store import Id, Store, Table
from serving.upgrade import Upgrade
from utils.errors import UserError

SAMPLE = 1000           # stored vectors that are looked at
PAIRED = 200            # entries that are embedded for a check
CHECKED = 64            # entries that are embedded before anything is written
UNIT = {"float16": 5e-3, "float32": 1e-3, "float64": 1e-3}      # largest |norm - 1| of a vector that counts as normalised
MIRROR = 2.0            # a sum of two views has twice the norm of their mean, and both are in use
CHANCE = 3.0            # standard errors by which an entry must be nearer to its own image than to another
MIN_SELF = 0.5          # mean cosine of a stored vector and of the same model's embedding of its image
CLOSE_SELF = 0.98


@dataclass(frozen=True)
class Stored:
    """What a sample of the stored vectors shows.  unit: all have norm 1."""

    unit: bool
    median_norm: float
    notes: list[str]


def check_stored(store: Store, table: Table, upgrade: Upgrade, new: str, names: Names, ids: list[Id]) -> Stored:
    """UserError if a sample of the stored vectors cannot be of the old version, or behind the forward map of ``new``."""
    version, name = upgrade.versions[upgrade.old], upgrade.old
    dim = upgrade.views[new if names.mapped_before else name, name]["dimension"]
    if table.dim != dim:
        raise UserError(f"the table {table.name} has vectors of {table.dim} dimensions, and {name} of upgrade.json makes "
                        f"{dim}; give the upgrade.json of this gallery, or another --collection")
    vectors = sample(store, table, ids, SAMPLE)[1]
    if not len(vectors):
        raise UserError(f"the table {table.name} has no entries; there is nothing to upgrade")
    norm = np.linalg.norm(vectors.astype(np.float64), axis=1)
    if not (np.isfinite(norm) & (norm > 0)).all():
        raise UserError(f"{(~(np.isfinite(norm) & (norm > 0))).sum()} of {len(norm)} stored vectors of {table.name} hold NaN, "
                        f"infinity or only zeros; remove these rows or embed them again")
    unit, median = bool((np.abs(norm - 1) <= UNIT[table.dtype]).all()), float(np.median(norm))
    if version["normalised"] and not unit:
        raise UserError(f"upgrade.json describes {name} as normalised, and the stored vectors of {table.name} have norms of "
                        f"{norm.min():.3g} to {norm.max():.3g}; they are not of this model, or compare was given other vectors")
    notes = []
    if version["normalised"] not in (None, unit):
        notes.append(f"the store keeps vectors of norm 1, {name} gives other norms: new vectors are stored with norm 1, too")
    low, _, high = version["norm"] or (0.0, 0.0, np.inf)
    if not unit and not low / MIRROR <= median <= high * MIRROR:
        raise UserError(f"the stored vectors of {table.name} have a median norm of {median:.3g}, and those of {name} have "
                        f"{low:.3g} to {high:.3g}: they are not of this model")
    if table.dtype == "float16":
        notes.append("vectors are stored as float16: cosines are exact to about 0.001")
    return Stored(unit, median, notes)


def sample(store: Store, table: Table, ids: list[Id], count: int) -> tuple[list[Id], np.ndarray]:
    """(ids, vectors) of random entries, the same ones each time."""
    rows = np.random.default_rng(0).permutation(len(ids))[:count]
    return store.get(table, [ids[row] for row in rows])


def check_new(source: Source, upgrade: Upgrade, new: str) -> None:
    """UserError if new vectors of this source cannot be of the new version."""
    version = upgrade.versions[new]
    if source.dim != version["dimension"]:
        raise UserError(f"the new vectors have {source.dim} dimensions, and {new} of upgrade.json makes {version['dimension']}; "
                        f"give the model or the vectors of {new}")
    check_model(source, version["fingerprint"], new)


def check_model(source, fingerprint: str | None, name: str) -> None:
    """UserError if the weights of a model are not those that upgrade.json was made with."""
    model = getattr(source, "model", None)
    if model is not None and fingerprint is not None and model.fingerprint != fingerprint:
        raise UserError(f"--model is not {name} of upgrade.json: its weights have the checksum {model.fingerprint[:12]}, "
                        f"expected {fingerprint[:12]}; give the file that compare judged")


def check_old_model(store: Store, table: Table, source: Source, ids: list[Id], name: str) -> str:
    """Compare stored vectors with the old model's embeddings of their images; the result in words.  UserError at chance level."""
    found, stored = sample(store, table, [ids[row] for row in np.flatnonzero(source.has(ids))], PAIRED)
    again, without = source.vectors(found, stored)
    usable = np.array([entry not in without for entry in found], bool)
    if usable.sum() < 2:
        raise UserError(f"fewer than two of {len(found)} sampled entries have an image that can be used; check --images")
    own, other = cosines(again[usable], stored[usable])
    if own.mean() < MIN_SELF or not apart(own, other):
        raise UserError(f"the stored vectors of {table.name} are not those of {name}: embedded again, {len(own)} images have a "
                        f"mean cosine of {own.mean():.3f} with their own entry and {other.mean():.3f} with another; check ids, "
                        f"images and the old model")
    close = "" if own.mean() >= CLOSE_SELF else "; below 0.98: were they aligned in another way?"
    return f"{len(own)} entries embedded again by {name} have a mean cosine of {own.mean():.3f} with what is stored{close}"


def check_together(view: np.ndarray, stored: np.ndarray, new: str) -> str | None:
    """UserError if new vectors are not nearer to their own old entry than to another.  None: checked; else why it was not.

    view: new vectors as they are compared with old entries, [n, d]; stored: old vectors of the same entries.
    """
    if len(view) < 10:
        return f"only {len(view)} of the sampled entries have a new vector: too few to check that they belong together"
    own, other = cosines(view, stored)
    if not apart(own, other):
        raise UserError(f"the new vectors do not belong to the entries: {len(own)} vectors of {new} have a mean cosine of "
                        f"{own.mean():.3f} with their own old entry and {other.mean():.3f} with another; check that ids, images "
                        f"and the model belong together. Nothing was written")
    return None


def check_source(store: Store, table: Table, upgrade: Upgrade, new: str, source: Source, ids: list[Id],
                 begins: bool = False) -> str | None:
    """Embed a sample of the entries: do the new vectors belong to them?  A note; None: they do.

    begins: of a re-embedding that begins; UserError if no vector can be made.  Later, entries without an image are left over.
    """
    ids, stored = sample(store, table, ids, CHECKED)
    vectors, without = source.vectors(ids, stored)
    leave_out_bad(vectors, ids, without)
    good = [row for row, entry in enumerate(ids) if entry not in without]
    if ids and not good:
        text = (f"none of {len(ids)} sampled entries has a new vector; the first: {ids[0]}: {without[ids[0]]}; give images or "
                f"vectors of these entries (larger aligned faces: --resize; photographs: --detector)")
        if begins:
            raise UserError(text)
        return text
    if isinstance(source, StoredVectors):
        return None             # they are these entries
    return check_together(upgrade.view(vectors[good], new, upgrade.old), stored[good], new)


def leave_out_bad(vectors: np.ndarray, ids: list[Id], without: dict[Id, str]) -> None:
    """Enter ids whose new vector has no direction into ``without``."""
    norm = np.linalg.norm(vectors.astype(np.float64), axis=1)
    for row in np.flatnonzero(~(np.isfinite(norm) & (norm > 0))):
        without.setdefault(ids[row], "its new vector holds NaN, infinity or only zeros")


def verdict_note(upgrade: Upgrade, new: str) -> list[str]:
    """A warning if the comparison judged the new version worse than the old one on the old gallery."""
    found = upgrade.data.get("verdict", {}).get(new, {})
    if "worse" not in str(found.get("answer")):
        return []
    return [f"warning: compare judged {new} '{found['answer']}' ({found.get('figure')} on the gallery of {upgrade.old}): until "
            f"everything is re-embedded, searches are worse than today"]


def cosines(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Cosines of rows i and i, [n], and of rows i and j, [n (n - 1)]."""
    x, y = (side.astype(np.float64) / np.linalg.norm(side.astype(np.float64), axis=1, keepdims=True) for side in (a, b))
    every = x @ y.T
    return np.diag(every), every[~np.eye(len(every), dtype=bool)]


def apart(own: np.ndarray, other: np.ndarray) -> bool:
    return bool(own.mean() - other.mean() > CHANCE * own.std() / np.sqrt(len(own)))
