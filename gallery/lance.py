"""LanceDB: a folder of tables, on a disk or in an object store, without a server."""

import uuid
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np

from gallery.store import Batch, Id, Row, Table, imported, ordered, store_errors, the_only
from utils.errors import UserError

ROWS = 8192             # rows of a batch of a scan


class LanceStore:
    """gallery.store.Store.  A commit is atomic; commits of several processes that collide are repeated by LanceDB."""

    def __init__(self, folder: str, id_column: str, vector_column: str | None):
        self.folder, self.id_column, self.vector_column = folder, id_column, vector_column
        lancedb = imported("lancedb", folder)
        self.pa: Any = __import__("pyarrow")
        if "://" not in folder and not Path(folder).is_dir():
            raise UserError(f"no folder {folder}; expected the folder of a LanceDB database")
        self.db = lancedb.connect(folder, read_consistency_interval=timedelta(0))       # see what other processes wrote
        self.opened: dict[str, Any] = {}

    def errors(self):
        return store_errors(self.folder, (RuntimeError, OSError, ValueError))

    def names(self) -> list[str]:
        names, token = [], None
        while True:
            page = self.db.list_tables(page_token=token)
            names += page.tables
            token = page.page_token
            if not token:
                return names

    def open(self, name: str):
        if name not in self.opened:
            self.opened[name] = self.db.open_table(name)
        return self.opened[name]

    def vector_columns(self, name: str) -> dict[str, Any]:
        """{column: its type} of the columns of fixed-size lists of floats."""
        types = self.pa.types
        return {field.name: field.type for field in self.open(name).schema
                if types.is_fixed_size_list(field.type) and types.is_floating(field.type.value_type)}

    def tables(self) -> list[str]:
        with self.errors():
            return [name for name in self.names() if self.has_vectors(name)]

    def has_vectors(self, name: str) -> bool:
        try:
            return bool(self.vector_columns(name))
        except ValueError as error:
            if "not found" in str(error):           # another worker is making it, or has just dropped it
                return False
            raise

    def table(self, name: str) -> Table:
        with self.errors():
            if name not in self.names():
                raise UserError(f"{self.folder} has no table {name}; expected one of {', '.join(self.tables()) or 'none'}")
            columns = self.vector_columns(name)
            vector = the_only(list(columns), self.vector_column, f"{self.folder}, table {name}", "column of vectors",
                              "--vector-column")
            if self.id_column not in self.open(name).schema.names:
                raise UserError(f"the table {name} of {self.folder} has no column {self.id_column}; name the column of the ids "
                                f"with --id-column")
            kind = columns[vector]
            return Table(name, self.id_column, vector, kind.list_size, np.dtype(kind.value_type.to_pandas_dtype()).name)

    def metric(self, table: Table) -> str:
        """How the index of the vectors ranks; "cosine" without one."""
        place = self.open(table.name)
        index = next((index.name for index in place.list_indices() if table.vector in index.columns), None)
        return (place.index_stats(index).distance_type or "cosine") if index else "cosine"

    def check(self, table: Table, unit: bool) -> None:
        with self.errors():
            metric = self.metric(table)
        if metric != "cosine" and not unit:
            raise UserError(f"the index of {table.name} ranks by {metric}, and the vectors are not normalised; expected cosine: "
                            f"make the index again with it")

    def query(self, table: Table, condition: str, columns: list[str]):
        return self.open(table.name).search().where(condition).select(columns)

    def count(self, table: Table) -> int:
        with self.errors():
            return self.open(table.name).count_rows(f"`{table.vector}` IS NOT NULL")

    def scan(self, table: Table, vectors: bool = False, column: str | None = None) -> Iterator[Batch]:
        columns = [table.id, *[table.vector] * vectors, *([column] if column else [])]
        with self.errors():
            for batch in self.query(table, f"`{table.vector}` IS NOT NULL", columns).to_batches(ROWS):
                yield Batch(ids_of(batch[table.id]), rows_of(batch[table.vector], table) if vectors else None,
                            np.asarray(batch[column], np.float64) if column else None)

    def get(self, table: Table, ids: list[Id]) -> tuple[list[Id], np.ndarray]:
        if not ids:
            return [], np.zeros((0, table.dim), table.dtype)
        with self.errors():
            rows = self.query(table, self.among(table, ids), [table.id, table.vector]).to_arrow().combine_chunks()
            return ids_of(rows[table.id]), rows_of(rows[table.vector], table)

    def among(self, table: Table, ids: list[Id]) -> str:
        """The condition that a row has a vector and one of these ids."""
        kind = self.open(table.name).schema.field(table.id).type
        if self.pa.types.is_integer(kind):
            values = [str(entry) for entry in ids]
        elif self.pa.types.is_fixed_size_binary(kind) or getattr(kind, "extension_name", "") == "arrow.uuid":
            values = [f"X'{uuid.UUID(str(entry)).hex}'" for entry in ids]
        else:
            values = ["'" + str(entry).replace("'", "''") + "'" for entry in ids]
        return f"`{table.vector}` IS NOT NULL AND `{table.id}` IN ({', '.join(values)})"

    def create(self, name: str, like: Table, dim: int, only_vectors: bool) -> Table:
        with self.errors():
            schema, pa = self.open(like.name).schema, self.pa
            fields = [pa.field(field.name, pa.list_(field.type.value_type, dim), field.nullable) if field.name == like.vector
                      else field for field in schema if not only_vectors or field.name in (like.id, like.vector)]
            self.db.create_table(name, schema=pa.schema(fields), exist_ok=True)
        return self.table(name)

    def copy(self, source: Table, target: Table, ids: list[Id], vectors: np.ndarray) -> None:
        if not ids:
            return
        with self.errors():
            schema = self.open(target.name).schema
            rows = self.open(source.name).search().where(self.among(source, ids)).to_arrow().combine_chunks()
            values = ordered(ids, ids_of(rows[source.id]), vectors).astype(target.dtype)
            flat = self.pa.FixedSizeListArray.from_arrays(self.pa.array(values.ravel()), target.dim)
            columns = [flat if name == target.vector else rows[name] for name in schema.names]
            new = self.pa.table(columns, schema=schema)
            self.open(target.name).merge_insert(target.id).when_matched_update_all().when_not_matched_insert_all().execute(new)

    def delete(self, table: Table, ids: list[Id]) -> None:
        if ids:
            with self.errors():
                self.open(table.name).delete(self.among(table, ids))

    def search(self, table: Table, queries: np.ndarray, top: int) -> list[tuple[list[Id], np.ndarray]]:
        if len(queries) == 0:
            return []
        with self.errors():
            rows = self.open(table.name).search(list(queries.astype(np.float32)), vector_column_name=table.vector) \
                .distance_type(self.metric(table)).select([table.id, table.vector, "_distance"]).limit(top).to_arrow()
            owner = np.asarray(rows["query_index"]) if "query_index" in rows.schema.names else np.zeros(len(rows), int)
            ids, vectors = ids_of(rows[table.id]), rows_of(rows[table.vector], table)
            places = [np.flatnonzero(owner == query) for query in range(len(queries))]
            return [([ids[row] for row in place], vectors[place]) for place in places]

    def drop(self, name: str) -> None:
        with self.errors():
            self.opened.pop(name, None)
            self.db.drop_table(name, ignore_missing=True)

    def tidy(self, table: Table) -> None:
        """Join small files; deleted rows and files of earlier versions stay as long as LanceDB keeps them, 7 days."""
        with self.errors():
            try:
                self.open(table.name).optimize()
            except RuntimeError as error:
                if "conflict" not in str(error).lower():    # another worker has begun to write again; the next one to end does it
                    raise

    def has_journal(self, name: str) -> bool:
        with self.errors():
            return name in self.names()

    def create_journal(self, name: str, rows: list[Row]) -> bool:
        with self.errors():
            try:
                self.db.create_table(name, self.pa.Table.from_pylist(rows))
            except ValueError as error:
                if "already exists" in str(error):
                    return False
                raise
            return True

    def append_journal(self, name: str, rows: list[Row]) -> None:
        with self.errors():
            self.open(name).merge_insert("number").when_not_matched_insert_all().execute(self.pa.Table.from_pylist(rows))

    def read_journal(self, name: str, condition: str, columns: list[str]) -> list[Row]:
        with self.errors():
            return self.open(name).search().where(condition).select(columns).to_arrow().to_pylist()

    def update_journal(self, name: str, condition: str, values: Row) -> bool:
        with self.errors():
            return self.open(name).update(where=condition, values=values).rows_updated == 1


def ids_of(column) -> list[Id]:
    return [str(uuid.UUID(bytes=entry)) if isinstance(entry, bytes) else str(entry) if isinstance(entry, uuid.UUID) else entry
            for entry in column.to_pylist()]


def rows_of(column, table: Table) -> np.ndarray:
    """[n, d] of a column of fixed-size lists."""
    if hasattr(column, "combine_chunks"):
        column = column.combine_chunks()
    if hasattr(column, "chunks"):
        column = column.chunk(0) if column.num_chunks else column.type.wrap_array([])
    return column.flatten().to_numpy(zero_copy_only=False).reshape(-1, table.dim).astype(table.dtype, copy=False)
