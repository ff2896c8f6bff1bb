"""The gallery in LanceDB at size: plan, a part re-embedded with given vectors, search; seconds, memory, and whose share they are.

    python benchmarks/gallery.py --entries 1000000 --dim 128 --share 0.01
    python benchmarks/gallery.py --entries 1000000 --dim 128 --share 0.01 --forward

Vectors are random: a latent identity of 32 numbers by an old and by a new matrix, and noise. "store" is the time inside calls of
the store's adapter, "ours" the rest: order, checks, reading of vectors, merging. With --forward stored vectors are mapped.
"""

import argparse
import json
import shutil
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from benchmarks.measure import Peak, own_bytes, processor
from gallery.names import forward_map, load_upgrade, names_of, step_of
from gallery.plan import make_plan
from gallery.reembed import Worker
from gallery.search import Searcher
from gallery.sources import GivenVectors, StoredVectors
from gallery.store import open_store

BLOCK = 100_000         # rows that are made at a time


class Timed:
    """A store whose calls are timed: ``seconds`` is the time inside of them, ``calls`` their number by name."""

    def __init__(self, store):
        self.store, self.seconds, self.depth, self.calls = store, 0.0, 0, {}

    def __getattr__(self, name):
        found = getattr(self.store, name)
        if not callable(found):
            return found

        def timed(*args, **kwargs):
            begin = time.perf_counter()
            out = found(*args, **kwargs)
            if name == "scan":
                out = self.scanned(out)
            self.add(name, time.perf_counter() - begin)
            return out
        return timed

    def scanned(self, batches):
        while True:
            begin = time.perf_counter()
            batch = next(batches, None)
            self.add("scan", time.perf_counter() - begin)
            if batch is None:
                return
            yield batch

    def add(self, name: str, seconds: float) -> None:
        self.seconds += seconds
        self.calls[name] = self.calls.get(name, 0.0) + seconds


def fill(folder: Path, entries: int, dim: int, forward: bool) -> Path:
    """The table, new vectors of the entries, and upgrade.json; the folder of the store."""
    import lancedb
    import pyarrow as pa
    draw = np.random.default_rng(0)
    old, new = (draw.standard_normal((32, dim)).astype(np.float32) for _ in range(2))
    out = np.lib.format.open_memmap(folder / "new.npy", "w+", np.float32, (entries, dim))

    def batches():
        for start in range(0, entries, BLOCK):
            count = min(BLOCK, entries - start)
            identity = draw.standard_normal((count, 32), np.float32)
            out[start:start + count] = identity @ new + draw.standard_normal((count, dim), np.float32)
            rows = identity @ old + draw.standard_normal((count, dim), np.float32)
            ids = pa.array([f"{entry:032x}" for entry in range(start, start + count)])
            yield pa.record_batch([ids, pa.FixedSizeListArray.from_arrays(pa.array(rows.ravel()), dim)], names=["id", "vector"])
    schema = pa.schema([("id", pa.string()), ("vector", pa.list_(pa.float32(), dim))])
    lancedb.connect(folder / "store").create_table("gallery", batches(), schema=schema)
    out.flush()
    (folder / "ids.txt").write_text("\n".join(f"{entry:032x}" for entry in range(entries)))
    weight = np.linalg.pinv(old) @ new if forward else np.linalg.pinv(new) @ old
    np.savez(folder / "map.npz", weight=weight.astype(np.float32), bias=np.zeros(dim, np.float32))
    write_upgrade(folder, dim, forward)
    return folder / "store"


def write_upgrade(folder: Path, dim: int, forward: bool) -> None:
    import hashlib
    same, pairs = {"kind": "same"}, []
    mapped = {"kind": "map", "file": "map.npz", "sha256": hashlib.sha256((folder / "map.npz").read_bytes()).hexdigest()}
    for query, entry in (("old", "old"), ("new", "old"), ("new", "new")):
        pairs.append({"query": query, "entry": entry, "thresholds": [], "search": [],
                      "score_map": {"scores": [-1, 0, 0.5], "values": [0, 0.3, 4], "slope": 20.0}})
    version = {"dimension": dim, "similarity": "cosine", "normalised": False, "norm": None, "fingerprint": None}
    views = {"old": {"old": {"dimension": dim, "query": same, "entry": same}},
             "new": {"old": {"dimension": dim} | dict(zip(("entry", "query") if forward else ("query", "entry"), (mapped, same),
                                                           strict=True)),
                     "new": {"dimension": dim, "query": same, "entry": same}}}
    (folder / "upgrade.json").write_text(json.dumps({
        "format": 1, "old": "old", "new": ["new"], "versions": {"old": version, "new": version}, "views": views, "pairs": pairs,
        "order": {"name": "random", "quality": None, "first": "lowest"}}))


def measured(name: str, work, store: Timed) -> object:
    """Do ``work`` and print a row: seconds, the store's and ours, peak memory above what was used before."""
    store.seconds, store.calls, before, cpu = 0.0, {}, own_bytes(), time.process_time()
    begin = time.perf_counter()
    with Peak() as peak:
        out = work()
    total = time.perf_counter() - begin
    most = ", ".join(f"{call} {spent:.1f}" for call, spent in sorted(store.calls.items(), key=lambda item: -item[1])[:4])
    print(f"| {name} | {total:.1f} | {time.process_time() - cpu:.1f} | {store.seconds:.1f} ({store.seconds / total:.0%}) | "
          f"{total - store.seconds:.1f} | {(peak.bytes - before) / 1e9:.2f} | {most} |", flush=True)
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--entries", type=int, default=1_000_000)
    parser.add_argument("--dim", type=int, default=128)
    parser.add_argument("--share", type=float, default=0.01)
    parser.add_argument("--index", action="store_true", help="give the table a scalar index of the ids first")
    parser.add_argument("--queries", type=int, default=100)
    parser.add_argument("--forward", action="store_true", help="map the stored vectors")
    args = parser.parse_args()
    folder = Path(tempfile.mkdtemp())
    try:
        begin = time.perf_counter()
        uri = str(fill(folder, args.entries, args.dim, args.forward))
        if args.index:
            import lancedb
            from lancedb.index import BTree
            lancedb.connect(uri).open_table("gallery").create_index("id", config=BTree())
        size = sum(path.stat().st_size for path in Path(uri).rglob("*") if path.is_file()) / 1e9
        spent = time.perf_counter() - begin
        print(f"{args.entries:,} x {args.dim}, LanceDB, {processor()}; filled in {spent:.1f} s, {size:.2f} GB\n")
        print("| step | s | CPU s | store's s | ours, s | memory GB | the store's calls, s |\n|---|---|---|---|---|---|---|")
        store, upgrade = Timed(open_store(uri)), load_upgrade(folder / "upgrade.json")
        mapping, names = forward_map(upgrade, "new"), names_of(store, upgrade, "new", None)
        source = StoredVectors(mapping) if mapping else GivenVectors(folder / "new.npy", folder / "ids.txt")
        step = step_of(store, upgrade, "new", names, mapping is not None)
        measured("plan", lambda: make_plan(store, step, upgrade, "new", "random", source, None), store)
        worker = Worker(store, upgrade, "new", step, source, 300.0)
        measured(f"re-embed {args.share:.0%}", lambda: worker.work("random", args.share), store)
        measured("re-embed 0.1 % more", lambda: Worker(store, upgrade, "new", step, source, 300.0).work(
            "random", args.share + 0.001), store)
        queries = np.random.default_rng(1).standard_normal((args.queries, args.dim)).astype(np.float32)
        searcher = Searcher(store, upgrade, names, "new", "new")
        measured("search, 1 query", lambda: searcher(queries[:1], 10), store)
        measured(f"search, {args.queries} queries", lambda: searcher(queries, 10), store)
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
