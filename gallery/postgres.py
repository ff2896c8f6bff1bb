"""PostgreSQL with pgvector 0.8 or newer. The rows of a block move inside the server; only ids and vectors reach this process."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from gallery.store import Batch, Id, Row, Table, hidden, imported, store_errors, the_only
from utils.errors import UserError

ROWS = 8192             # rows of a batch of a scan
TYPES = {"vector": "float32", "halfvec": "float16"}
MAX_CANDIDATES = 1000   # largest hnsw.ef_search
COLUMNS = """SELECT a.attname, t.typname, a.atttypmod, format_type(a.atttypid, a.atttypmod), a.attgenerated <> ''
             FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid
             WHERE a.attrelid = %s::regclass AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum"""
KEY = """SELECT a.attname FROM pg_index i JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = ANY(i.indkey)
         WHERE i.indrelid = %s::regclass AND i.indisprimary"""
TABLES = """SELECT DISTINCT c.relname FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid
            JOIN pg_type t ON t.oid = a.atttypid WHERE c.relkind IN ('r', 'p') AND pg_table_is_visible(c.oid)
            AND t.typname = ANY(%s) AND NOT a.attisdropped ORDER BY 1"""


class PostgresStore:
    """gallery.store.Store.  Every operation is a transaction of its own."""

    def __init__(self, uri: str, vector_column: str | None):
        self.uri, self.vector_column = uri, vector_column
        self.psycopg: Any = imported("psycopg", hidden(uri))
        from psycopg import sql
        self.sql = sql
        with self.errors():
            self.connection = self.psycopg.connect(uri, autocommit=True)
            if not self.run("SELECT 1 FROM pg_extension WHERE extname = 'vector'"):
                raise UserError(f"the database {hidden(uri)} has no pgvector; run CREATE EXTENSION vector in it")
            self.run("SELECT '[1]'::vector")                                # loads the library, which knows the next setting
            self.run("SET hnsw.iterative_scan = strict_order")              # removed rows would leave fewer hits than asked for

    def errors(self):
        return store_errors(self.uri, (self.psycopg.Error,))

    def run(self, text: str, values=(), **names) -> list[tuple]:
        """The rows of a statement; names: identifiers and parts of it in braces."""
        cursor = self.connection.execute(self.filled(text, names), values or None)
        return cursor.fetchall() if cursor.description else []

    def filled(self, text: str, names: dict):
        parts = {key: self.sql.Identifier(value) if isinstance(value, str) else value for key, value in names.items()}
        return self.sql.SQL(text).format(**parts)

    def columns(self, name: str) -> list[tuple]:
        """(name, type, modifier, type as text, generated) of each column."""
        return self.run(COLUMNS, (f'"{name}"',))

    def tables(self) -> list[str]:
        with self.errors():
            return [name for name, in self.run(TABLES, (list(TYPES),))]

    def table(self, name: str) -> Table:
        if name not in self.tables():
            raise UserError(f"{hidden(self.uri)} has no table {name} with a column of vectors; expected one of "
                            f"{', '.join(self.tables()) or 'none'}")
        with self.errors():
            kinds = {column: (kind, dim) for column, kind, dim, _, _ in self.columns(name) if kind in TYPES}
            where = f"{hidden(self.uri)}, table {name}"
            vector = the_only(list(kinds), self.vector_column, where, "column of vectors", "--vector-column")
            key = [column for column, in self.run(KEY, (f'"{name}"',))]
            if len(key) != 1:
                raise UserError(f"{where}: expected a primary key of one column, found {', '.join(key) or 'none'}; add one")
            kind, dim = kinds[vector]
            if dim < 1:
                raise UserError(f"{where}: the column {vector} has no fixed number of dimensions; declare it as {kind}(N)")
            return Table(name, key[0], vector, dim, TYPES[kind])

    def id_type(self, table: Table) -> tuple[str, bool]:
        """(type of the ids, whether they are integers)."""
        kind = next(text for column, _, _, text, _ in self.columns(table.name) if column == table.id)
        return kind, kind in ("integer", "bigint", "smallint")

    def parts(self, table: Table) -> dict:
        """Identifiers of a table, its id as it leaves the server, its vectors as bytes, and the condition for some ids."""
        kind, integer = self.id_type(table)
        names = {"table": table.name, "id": table.id, "vector": table.vector}
        send = "halfvec_send" if table.dtype == "float16" else "vector_send"
        return names | {"key": self.filled("{id}" if integer else "{id}::text", names),
                        "bytes": self.filled(send + "({vector})", names),
                        "among": self.filled("{id} = ANY(%s::" + kind + "[]) AND {vector} IS NOT NULL", names)}

    def count(self, table: Table) -> int:
        with self.errors():
            return self.run("SELECT count(*) FROM {table} WHERE {vector} IS NOT NULL", **self.parts(table))[0][0]

    def scan(self, table: Table, vectors: bool = False, column: str | None = None) -> Iterator[Batch]:
        values = self.filled("{c}::float8", {"c": column}) if column else self.sql.SQL("NULL")
        query = "SELECT {key}, " + ("{bytes}" if vectors else "NULL") + ", {values} FROM {table} WHERE {vector} IS NOT NULL"
        with self.errors(), self.connection.transaction(), self.connection.cursor(name="gallery_scan", binary=True) as cursor:
            cursor.execute(self.filled(query, self.parts(table) | {"values": values}))
            while rows := cursor.fetchmany(ROWS):
                yield Batch([row[0] for row in rows], numbers([row[1] for row in rows], table) if vectors else None,
                            np.array([row[2] for row in rows], np.float64) if column else None)

    def get(self, table: Table, ids: list[Id]) -> tuple[list[Id], np.ndarray]:
        with self.errors():
            rows = self.run("SELECT {key}, {bytes} FROM {table} WHERE {among}", (ids,), **self.parts(table))
            return [row[0] for row in rows], numbers([row[1] for row in rows], table)

    def create(self, name: str, like: Table, dim: int, only_vectors: bool) -> Table:
        kind = f"{'halfvec' if like.dtype == 'float16' else 'vector'}({dim})"
        names: dict = {"name": name, "like": like.name, "id": like.id, "vector": like.vector,
                       "id_type": self.sql.SQL(self.id_type(like)[0]), "kind": self.sql.SQL(kind)}
        with self.errors(), self.connection.transaction():
            self.run("SELECT pg_advisory_xact_lock(hashtext(%s))", (name,))             # of two workers the second waits
            if name in self.tables():
                pass
            elif only_vectors:
                self.run("CREATE TABLE {name} ({id} {id_type} PRIMARY KEY, {vector} {kind} NOT NULL)", **names)
            else:
                self.run("CREATE TABLE {name} (LIKE {like} INCLUDING ALL EXCLUDING IDENTITY)", **names)
                self.run("ALTER TABLE {name} ALTER COLUMN {vector} TYPE {kind}", **names)
        return self.table(name)

    def copy(self, source: Table, target: Table, ids: list[Id], vectors: np.ndarray) -> None:
        own = {column for column, *_ in self.columns(source.name)}
        shared = [column for column, _, _, _, generated in self.columns(target.name)
                  if column in own and not generated and column not in (target.id, target.vector)]
        joined = self.sql.SQL(", ").join
        names: dict = {"source": source.name, "target": target.name, "id": target.id, "vector": target.vector,
                       "kind": self.sql.SQL(self.id_type(source)[0]), "from_id": source.id,
                       "type": self.sql.SQL(f"{'halfvec' if target.dtype == 'float16' else 'vector'}({target.dim})"),
                       "columns": joined([self.sql.Identifier(name) for name in (target.id, target.vector, *shared)]),
                       "values": joined([self.filled("s.{c}", {"c": name}) for name in (source.id,)]
                                        + [self.sql.SQL("m.moved_vector")]
                                        + [self.filled("s.{c}", {"c": name}) for name in shared]),
                       "changes": joined([self.filled("{c} = EXCLUDED.{c}", {"c": name}) for name in (target.vector, *shared)])}
        with self.errors(), self.connection.transaction(), self.connection.cursor() as cursor:
            cursor.execute(self.filled("CREATE TEMP TABLE gallery_moved (moved_id {kind}, moved_vector {type}) ON COMMIT DROP",
                                       names))
            with cursor.copy("COPY gallery_moved FROM STDIN") as out:
                for entry, vector in zip(ids, vectors.astype(target.dtype).tolist(), strict=True):
                    out.write_row((str(entry), str(vector)))
            cursor.execute(self.filled("INSERT INTO {target} ({columns}) OVERRIDING SYSTEM VALUE SELECT {values} FROM {source} s "
                                       "JOIN gallery_moved m ON m.moved_id = s.{from_id} "
                                       "ON CONFLICT ({id}) DO UPDATE SET {changes}", names))

    def delete(self, table: Table, ids: list[Id]) -> None:
        with self.errors():
            self.run("DELETE FROM {table} WHERE {among}", (ids,), **self.parts(table))

    def search(self, table: Table, queries: np.ndarray, top: int) -> list[tuple[list[Id], np.ndarray]]:
        kind = self.sql.SQL(f"::{'halfvec' if table.dtype == 'float16' else 'vector'}")
        out = []
        with self.errors():
            self.run(f"SET hnsw.ef_search = {min(max(40, 2 * top), MAX_CANDIDATES)}")
            for query in queries:
                rows = self.run("SELECT {key}, {bytes} FROM {table} WHERE {vector} IS NOT NULL "
                                "ORDER BY {vector} <=> %s{kind} LIMIT %s", (str(query.tolist()), top),
                                kind=kind, **self.parts(table))
                out.append(([row[0] for row in rows], numbers([row[1] for row in rows], table)))
        return out

    def drop(self, name: str) -> None:
        with self.errors():
            self.run("DROP TABLE IF EXISTS {name}", name=name)

    def check(self, table: Table, unit: bool) -> None:
        """UserError if rows of other tables point at this one: they would be refused, or removed with the old row."""
        with self.errors():
            rows = self.run("SELECT conrelid::regclass::text FROM pg_constraint WHERE contype = 'f' AND confrelid = %s::regclass",
                            (f'"{table.name}"',))
        if rows:
            raise UserError(f"the table {rows[0][0]} has a foreign key to {table.name}, and an entry leaves {table.name} when it "
                            f"is re-embedded; drop this foreign key first")

    def tidy(self, table: Table) -> None:
        with self.errors():
            self.run("VACUUM (ANALYZE) {table}", table=table.name)

    def has_journal(self, name: str) -> bool:
        with self.errors():
            return self.run("SELECT to_regclass(%s) IS NOT NULL", (f'"{name}"',))[0][0]

    def create_journal(self, name: str, rows: list[Row]) -> bool:
        with self.errors(), self.connection.transaction():
            self.run("SELECT pg_advisory_xact_lock(hashtext(%s))", (name,))
            if self.has_journal(name):
                return False
            self.run("CREATE TABLE {name} (number bigint PRIMARY KEY, place bigint, size bigint, done bigint, owner bigint, "
                     "until float8, missing bigint, ids text)", name=name)
            self.append_journal(name, rows)
        return True

    def append_journal(self, name: str, rows: list[Row]) -> None:
        columns = list(rows[0])
        with self.errors(), self.connection.cursor() as cursor:
            cursor.executemany(self.filled("INSERT INTO {name} ({columns}) VALUES ({places}) ON CONFLICT DO NOTHING", {
                "name": name, "columns": self.sql.SQL(", ").join(map(self.sql.Identifier, columns)),
                "places": self.sql.SQL(", ").join([self.sql.Placeholder()] * len(columns))}),
                [tuple(row.values()) for row in rows])

    def read_journal(self, name: str, condition: str, columns: list[str]) -> list[Row]:
        with self.errors():
            rows = self.run("SELECT {columns} FROM {name} WHERE {condition}", name=name, condition=self.sql.SQL(condition),
                            columns=self.sql.SQL(", ").join(map(self.sql.Identifier, columns)))
            return [dict(zip(columns, row, strict=True)) for row in rows]

    def update_journal(self, name: str, condition: str, values: Row) -> bool:
        changes = self.sql.SQL(", ").join([self.filled("{c} = %s", {"c": column}) for column in values])
        with self.errors():
            return self.connection.execute(self.filled("UPDATE {name} SET {changes} WHERE {condition}", {
                "name": name, "changes": changes, "condition": self.sql.SQL(condition)}), tuple(values.values())).rowcount == 1


def numbers(values: list[bytes], table: Table) -> np.ndarray:
    """[n, d] of vectors as the server sends them: two numbers of 2 bytes, then the vector, the high byte first."""
    kind = np.dtype(table.dtype).newbyteorder(">")
    rows = [np.frombuffer(value, kind, offset=4) for value in values]
    return np.stack(rows).astype(table.dtype) if rows else np.zeros((0, table.dim), table.dtype)
