"""What the gallery needs of a vector store, and the three stores that have it, chosen by URI.

    FOLDER, lancedb:FOLDER, s3://BUCKET/FOLDER      LanceDB
    postgresql://USER@HOST/DATABASE                 PostgreSQL with pgvector
    FILE.db, http://HOST:19530                      Milvus: Milvus Lite's file, or a server

Each adapter translates; what is done with a store is in the other files of this room.
"""

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Protocol

import numpy as np

from utils.arrays import one_line
from utils.errors import UserError

Id = int | str          # as the store has it; a UUID as text
Row = dict[str, Any]

INSTALL = {"lancedb": "lancedb==0.40.0", "psycopg": "'psycopg[binary]==3.3.9' pgvector==0.5.1",
           "pymilvus": "pymilvus==3.0.2 milvus-lite==3.2.2"}


@dataclass(frozen=True)
class Table:
    """A table (Milvus: collection) of vectors."""

    name: str
    id: str             # column of the ids, each of which occurs once
    vector: str         # column of the vectors
    dim: int
    dtype: str          # numpy's name of a number of a vector: float16, float32 or float64


@dataclass(frozen=True)
class Batch:
    """Rows of a table.  vectors: [n, d] in the table's dtype, or None; values: n numbers of another column, or None."""

    ids: list[Id]
    vectors: np.ndarray | None
    values: np.ndarray | None


class Store(Protocol):
    """The operations of a store.  Rows without a vector do not exist for it.  An id that a table lacks is left out silently.

    Of the journal's table (journal.py) the columns are numbers and one text. A condition is of the form
    ``number >= 3 and until < 17.5``, which all three understand.
    """

    def tables(self) -> list[str]:
        """Names of the tables that have vectors."""

    def table(self, name: str) -> Table:
        """UserError if there is no such table, or if its columns do not fit."""

    def check(self, table: Table, unit: bool) -> None:
        """UserError if entries cannot leave this table, or if its index does not rank by the cosine.  unit: vectors of norm 1."""

    def count(self, table: Table) -> int:
        """Number of rows that have a vector."""

    def scan(self, table: Table, vectors: bool = False, column: str | None = None) -> Iterator[Batch]:
        """All rows, each once."""

    def get(self, table: Table, ids: list[Id]) -> tuple[list[Id], np.ndarray]:
        """(ids, vectors [n, d] in the table's dtype) of those rows that exist, in any order."""

    def create(self, name: str, like: Table, dim: int, only_vectors: bool) -> Table:
        """The table ``name``: an empty one with the columns of ``like`` and other dimensions, unless it exists.

        only_vectors: with the columns of ids and vectors only.
        """

    def copy(self, source: Table, target: Table, ids: list[Id], vectors: np.ndarray) -> None:
        """Write the rows ``ids`` of ``source`` with other vectors into ``target``, in the place of rows with these ids."""

    def delete(self, table: Table, ids: list[Id]) -> None: ...

    def search(self, table: Table, queries: np.ndarray, top: int) -> list[tuple[list[Id], np.ndarray]]:
        """For each query [d] the ids and vectors of the ``top`` rows with the largest cosine, by the store's own index."""

    def drop(self, name: str) -> None:
        """Remove a table; nothing if there is none."""

    def tidy(self, table: Table) -> None:
        """What the store needs after many small writes."""

    def has_journal(self, name: str) -> bool: ...

    def create_journal(self, name: str, rows: list[Row]) -> bool:
        """Create the table with these rows, all or none of them for whoever reads it; False if it exists."""

    def append_journal(self, name: str, rows: list[Row]) -> None: ...

    def read_journal(self, name: str, condition: str, columns: list[str]) -> list[Row]: ...

    def update_journal(self, name: str, condition: str, values: Row) -> bool:
        """Change the one row of this condition; False if there is none, for example because another worker was first."""


def open_store(uri: str, id_column: str | None = None, vector_column: str | None = None) -> Store:
    """The store at ``uri``.  id_column, vector_column: their names, if the store does not make them clear.  UserError."""
    scheme = uri.partition(":")[0] if "://" in uri else ""
    if scheme in ("postgresql", "postgres"):
        from gallery.postgres import PostgresStore
        return PostgresStore(uri, vector_column)
    if scheme in ("http", "https", "tcp") or not scheme and uri.endswith(".db"):
        from gallery.milvus import MilvusStore
        return MilvusStore(uri, vector_column)
    if scheme in ("", "s3", "gs", "az"):
        from gallery.lance import LanceStore
        return LanceStore(uri.removeprefix("lancedb:"), id_column or "id", vector_column)
    raise UserError(f"--store {uri}: expected a folder (LanceDB), postgresql://USER@HOST/DATABASE, or Milvus as FILE.db or "
                    f"http://HOST:19530")


def imported(module: str, uri: str) -> ModuleType:
    """The client of a store; UserError with the line that installs it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise UserError(f"--store {uri} needs {module}, which cannot be imported ({one_line(error)}); "
                        f"pip install {INSTALL[module]}") from error


@contextmanager
def store_errors(uri: str, kinds: tuple[type[Exception], ...]) -> Iterator[None]:
    """An error of the store's client in this block becomes a UserError."""
    try:
        yield
    except kinds as error:
        raise UserError(f"the store {hidden(uri)} failed ({one_line(error)[:300]}); what was complete is kept and nothing is "
                        f"lost: repair the store and run the same command again") from error


def hidden(uri: str) -> str:
    """The URI without a password."""
    scheme, slashes, rest = uri.partition("://")
    user, at, host = rest.rpartition("@")
    return f"{scheme}://{user.partition(':')[0]}@{host}" if slashes and at else uri


def the_only(candidates: list[str], wanted: str | None, where: str, what: str, option: str) -> str:
    """``wanted``, or the only one of the candidates; UserError that names ``option`` if that does not decide it."""
    if wanted is None and len(candidates) == 1 or wanted in candidates:
        return wanted or candidates[0]
    found = ", ".join(candidates) or "none"
    raise UserError(f"{where}: expected {f'the {what} {wanted}' if wanted else f'one {what}'}, found {found}; give {option}")


def ordered(ids: list[Id], found: list[Id], vectors: np.ndarray) -> np.ndarray:
    """The rows of ``vectors``, which belong to ``ids``, in the order of ``found``."""
    place = {entry: row for row, entry in enumerate(ids)}
    return vectors[np.array([place[entry] for entry in found], int)]

