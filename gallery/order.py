"""The order in which the entries of a table are re-embedded."""

import hashlib

import numpy as np

from gallery.store import Id, Store, Table
from utils.errors import UserError

RANDOM, NORM = "random", "norm"
OLD_NORM = "norm of the old feature"        # the quality of compare that follows from the store


def kind_of(order: dict, option: str | None) -> str:
    """random, norm, or a column of the table.  order: of upgrade.json; option: of the command line, which comes first.

    UserError if the order of upgrade.json needs a column that nobody named.
    """
    if option:
        return option
    if order.get("quality") in (None, OLD_NORM):
        return RANDOM if order.get("quality") is None else NORM
    raise UserError(f"upgrade.json re-embeds {order['name']}; name the column that holds this quality with --order COLUMN, or "
                    f"give --order random")


def in_words(kind: str) -> str:
    return {RANDOM: "random", NORM: f"lowest {OLD_NORM} first"}.get(kind, f"lowest {kind} first")


def read_order(store: Store, table: Table, kind: str) -> list[Id]:
    """The ids of all entries in the order of a kind, each once; ties, and all of ``random``, by a hash of the id.

    UserError if an id occurs twice, or if the column is not there or not a number.
    """
    ids: list[Id] = []
    qualities = []
    for batch in store.scan(table, vectors=kind == NORM, column=None if kind in (RANDOM, NORM) else kind):
        ids += batch.ids
        if batch.vectors is not None:
            qualities.append(np.linalg.norm(batch.vectors.astype(np.float64), axis=1))
        if batch.values is not None:
            qualities.append(batch.values)
    if len(set(ids)) < len(ids):
        raise UserError(f"{len(ids) - len(set(ids))} rows of {table.name} have the id of another row; expected each id once")
    keys = [np.array([hashed(entry) for entry in ids], np.uint64)]
    if qualities:
        quality = np.concatenate(qualities)
        if np.isnan(quality).any():
            raise UserError(f"{np.isnan(quality).sum()} rows of {table.name} have no number to order by ({in_words(kind)}); fill "
                            f"the column, or give --order random")
        keys.append(quality)
    return [ids[row] for row in np.lexsort(keys)] if ids else []


def hashed(entry: Id) -> int:
    """The same 64 bits for an id on every machine."""
    return int.from_bytes(hashlib.blake2b(str(entry).encode(), digest_size=8).digest(), "little")
