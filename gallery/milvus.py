"""Milvus: a server or a cluster, or Milvus Lite's file, which one process at a time can open."""

import json
import logging
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from gallery.store import Batch, Id, Row, Table, hidden, imported, ordered, store_errors, the_only
from utils.errors import UserError

ROWS = 4096             # rows of a batch of a scan; Milvus answers with at most 16,384
TYPES = {"FLOAT_VECTOR": "float32", "FLOAT16_VECTOR": "float16"}
KEPT_IN_SCHEMA = ("is_primary", "nullable", "default_value", "element_type", "is_partition_key", "is_clustering_key")
LONGEST_TEXT = 65_535   # bytes
SECONDS_TO_SETTLE = 0.3 # after which another worker's write of the same row would be seen
QUIET = {"grpc.keepalive_time_ms": 300_000, "grpc.keepalive_permit_without_calls": False}    # Lite ends a client that pings
COMPLETE = -1           # number of the journal's row that is written last


class MilvusStore:
    """gallery.store.Store.  Milvus cannot change a row on a condition: a worker writes, waits a moment, and reads it again."""

    def __init__(self, uri: str, vector_column: str | None):
        self.uri, self.vector_column = uri, vector_column
        self.milvus: Any = imported("pymilvus", hidden(uri))
        for name in ("pymilvus", "milvus_lite"):
            logging.getLogger(name).setLevel(logging.CRITICAL)          # they print tracebacks of errors that they also raise
        if uri.endswith(".db") and not Path(uri).exists():
            raise UserError(f"no file {uri}; expected that of Milvus Lite")
        with self.errors():
            try:
                self.client = self.milvus.MilvusClient(uri, grpc_options=QUIET)
            except self.milvus.exceptions.ConnectionConfigException as error:
                if uri.endswith(".db"):
                    raise UserError(f"the file {uri} cannot be opened: another process has it, or it is not Milvus Lite's; end "
                                    f"that process, or serve the file to several (milvus-lite server --data-dir {uri}) and give "
                                    f"http://127.0.0.1:19530") from error
                raise

    def errors(self):
        return store_errors(self.uri, (self.milvus.MilvusException,))

    def described(self, name: str) -> dict:
        return self.client.describe_collection(name)

    def tables(self) -> list[str]:
        with self.errors():
            return sorted(name for name in self.client.list_collections()
                          if any(field["name"] != "nothing" for field in vector_fields(self.described(name))))

    def table(self, name: str) -> Table:
        if name not in self.tables():
            raise UserError(f"{hidden(self.uri)} has no collection {name}; expected one of {', '.join(self.tables()) or 'none'}")
        with self.errors():
            about = self.described(name)
            fields = {field["name"]: field for field in vector_fields(about)}
            vector = the_only(list(fields), self.vector_column, f"{hidden(self.uri)}, collection {name}", "field of vectors",
                              "--vector-column")
            if about["auto_id"] or about.get("functions"):
                raise UserError(f"the collection {name} makes ids or fields by itself, so an entry cannot move with its id; copy "
                                f"it into a collection with auto_id=False and without functions")
            self.client.load_collection(name)
            key = next(field["name"] for field in about["fields"] if field.get("is_primary"))
            return Table(name, key, vector, int(fields[vector]["params"]["dim"]), TYPES[fields[vector]["type"].name])

    def query(self, name: str, condition: str, columns: list[str], **options) -> list[Row]:
        return list(self.client.query(name, filter=condition, output_fields=columns, consistency_level="Strong", **options))

    def count(self, table: Table) -> int:
        with self.errors():
            return int(self.query(table.name, "", ["count(*)"])[0]["count(*)"])

    def scan(self, table: Table, vectors: bool = False, column: str | None = None) -> Iterator[Batch]:
        columns = [table.id, *[table.vector] * vectors, *([column] if column else [])]
        for rows in self.pages(table.name, "", columns):
            yield Batch([row[table.id] for row in rows], rows_of(rows, table) if vectors else None,
                        np.array([row[column] for row in rows], np.float64) if column else None)

    def pages(self, name: str, condition: str, columns: list[str]) -> Iterator[list[Row]]:
        with self.errors():
            pages = self.client.query_iterator(name, batch_size=ROWS, filter=condition, output_fields=columns,
                                               consistency_level="Strong")
            while rows := pages.next():
                yield list(rows)
            pages.close()

    def rows(self, table: Table, ids: list[Id], columns: list[str]) -> list[Row]:
        return self.query(table.name, among(table, ids), columns) if ids else []

    def get(self, table: Table, ids: list[Id]) -> tuple[list[Id], np.ndarray]:
        with self.errors():
            rows = self.rows(table, ids, [table.id, table.vector])
            return [row[table.id] for row in rows], rows_of(rows, table)

    def create(self, name: str, like: Table, dim: int, only_vectors: bool) -> Table:
        with self.errors():
            if not self.client.has_collection(name):
                about = self.described(like.name)
                schema = self.client.create_schema(auto_id=False, enable_dynamic_field=about["enable_dynamic_field"]
                                                   and not only_vectors)
                for field in about["fields"]:
                    if not only_vectors or field["name"] in (like.id, like.vector):
                        params = field.get("params", {}) | ({"dim": dim} if field["name"] == like.vector else {})
                        schema.add_field(field["name"], field["type"], **params,
                                         **{key: field[key] for key in KEPT_IN_SCHEMA if field.get(key) is not None})
                self.client.create_collection(name, schema=schema, index_params=self.indexes(like, only_vectors))
        return self.table(name)

    def indexes(self, like: Table, only_vectors: bool):
        """The indexes of a collection; of a kept one that of the vectors."""
        out = self.client.prepare_index_params()
        for index in self.client.list_indexes(like.name):
            about = self.client.describe_index(like.name, index)
            if not only_vectors or about["field_name"] == like.vector:
                params = {key: value for key, value in about.items() if key in ("M", "efConstruction", "nlist", "m", "nbits")}
                out.add_index(about["field_name"], index_type=about["index_type"], index_name=about["index_name"], params=params,
                              **({"metric_type": about["metric_type"]} if about.get("metric_type") else {}))
        return out

    def copy(self, source: Table, target: Table, ids: list[Id], vectors: np.ndarray) -> None:
        with self.errors():
            only = {field["name"] for field in self.described(target.name)["fields"]}
            dynamic = self.described(target.name)["enable_dynamic_field"]
            rows = self.rows(source, ids, ["*"])
            values = ordered(ids, [row[source.id] for row in rows], vectors.astype(target.dtype))
            new = [{key: value for key, value in row.items() if dynamic or key in only}
                   | {target.vector: vector if target.dtype == "float16" else vector.tolist()}
                   for row, vector in zip(rows, values, strict=True)]
            if new:
                self.client.upsert(target.name, new)

    def delete(self, table: Table, ids: list[Id]) -> None:
        if ids:
            with self.errors():
                self.client.delete(table.name, filter=among(table, ids))

    def search(self, table: Table, queries: np.ndarray, top: int) -> list[tuple[list[Id], np.ndarray]]:
        with self.errors():
            found = self.client.search(table.name, data=[list(map(float, query)) for query in queries], limit=top,
                                       anns_field=table.vector, output_fields=[table.vector], consistency_level="Strong")
            hits = [[hit["entity"] | {table.id: hit[table.id]} for hit in one] for one in found]
            return [([hit[table.id] for hit in one], rows_of(one, table)) for one in hits]

    def check(self, table: Table, unit: bool) -> None:
        """UserError if the index ranks by something else than the cosine."""
        with self.errors():
            for index in self.client.list_indexes(table.name, field_name=table.vector):
                metric = self.client.describe_index(table.name, index).get("metric_type")
                if metric not in (None, "COSINE") and not unit:
                    raise UserError(f"the index of {table.name} ranks by {metric}, and the vectors are not normalised; expected "
                                    f"COSINE: make the index again with it")

    def drop(self, name: str) -> None:
        with self.errors():
            if self.client.has_collection(name):
                self.client.drop_collection(name)

    def tidy(self, table: Table) -> None:
        with self.errors():
            self.client.flush(table.name)

    def has_journal(self, name: str) -> bool:
        with self.errors():
            if not self.client.has_collection(name):
                return False
            self.client.load_collection(name)           # after a restart of the server nothing is loaded
            return bool(self.query(name, f"number <= {COMPLETE}", ["number"]))

    def create_journal(self, name: str, rows: list[Row]) -> bool:
        """The row COMPLETE is written last: a journal without it was left half written, and is written again."""
        if self.has_journal(name):
            return False
        with self.errors():
            kinds = self.milvus.DataType
            schema = self.client.create_schema(auto_id=False, enable_dynamic_field=False)
            schema.add_field("number", kinds.INT64, is_primary=True)
            for column in ("place", "size", "done", "owner", "missing"):
                schema.add_field(column, kinds.INT64)
            schema.add_field("until", kinds.DOUBLE)
            schema.add_field("ids", kinds.VARCHAR, max_length=LONGEST_TEXT)
            schema.add_field("nothing", kinds.FLOAT_VECTOR, dim=2)          # a collection must have vectors
            index = self.client.prepare_index_params()
            index.add_index("nothing", index_type="FLAT", metric_type="L2")
            if not self.client.has_collection(name):
                self.client.create_collection(name, schema=schema, index_params=index)
            rows = sorted(rows, key=lambda row: -row["number"])
            self.append_journal(name, rows)
        return True

    def append_journal(self, name: str, rows: list[Row]) -> None:
        with self.errors():
            for start in range(0, len(rows), 500):
                self.client.upsert(name, [row | {"nothing": [0.0, 0.0]} for row in rows[start:start + 500]])

    def read_journal(self, name: str, condition: str, columns: list[str]) -> list[Row]:
        with self.errors():
            return [{key: row[key] for key in columns} for page in self.pages(name, condition, columns) for row in page]

    def update_journal(self, name: str, condition: str, values: Row) -> bool:
        with self.errors():
            rows = self.query(name, condition, ["*"], limit=2)
            if len(rows) != 1:
                return False
            self.client.upsert(name, [rows[0] | values])
            if "owner" not in values or values["owner"] == 0:
                return True
            time.sleep(SECONDS_TO_SETTLE)
            number = rows[0]["number"]
            now = self.query(name, f"number >= {number} and number <= {number}", ["owner"], limit=1)
            return bool(now) and now[0]["owner"] == values["owner"]


def among(table: Table, ids: list[Id]) -> str:
    """The condition that a row has one of these ids; the client's own list of ids does not escape quotes."""
    return f"{table.id} in {json.dumps(ids, ensure_ascii=False)}"


def vector_fields(about: dict) -> list[dict]:
    return [field for field in about["fields"] if field["type"].name in TYPES]


def rows_of(rows: list[Row], table: Table) -> np.ndarray:
    """[n, d] of rows as the client gives them; float16 comes as bytes."""
    values = [row[table.vector] for row in rows]
    if values and isinstance(values[0], list) and isinstance(values[0][0], bytes):
        values = [value[0] for value in values]
    vectors = [np.frombuffer(value, table.dtype) if isinstance(value, bytes) else np.asarray(value, table.dtype)
               for value in values]
    return np.stack(vectors) if vectors else np.zeros((0, table.dim), table.dtype)
