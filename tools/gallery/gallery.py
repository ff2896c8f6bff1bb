"""The gallery itself: plan, re-embed, search, and a way back, in LanceDB, PostgreSQL with pgvector, or Milvus.

    python tools/gallery/gallery.py plan     --store URI --upgrade upgrade.json --images FOLDER --model NEW.onnx --rate 200
    python tools/gallery/gallery.py reembed  --store URI --upgrade upgrade.json --images FOLDER --model NEW.onnx --share 0.3
    python tools/gallery/gallery.py reembed  --store URI --upgrade upgrade.json --vectors new.npy --ids ids.txt
    python tools/gallery/gallery.py reembed  --store URI --upgrade upgrade.json --new NEW+ridge-forward
    python tools/gallery/gallery.py search   --store URI --upgrade upgrade.json --model NEW.onnx face.jpg --top 10 --far 1e-4
    python tools/gallery/gallery.py status   --store URI
    python tools/gallery/gallery.py rollback --store URI
    python tools/gallery/gallery.py finish   --store URI --yes

URI: a folder (LanceDB), postgresql://USER@HOST/DATABASE (pgvector), FILE.db or http://HOST:19530 (Milvus). tools/compare writes
upgrade.json. Entries of the old model are in the table NAME, those of the new model in NAME__NEW; each entry is in one of them,
and search asks both. reembed can be killed and repeated, and several may run at once. If the version has a forward map, it maps
the stored vectors and needs no images. docs/upgrade.md shows all steps.
"""

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from evaluation.detect import Detector
from evaluation.models import find_devices
from evaluation.version_names import Version
from gallery.back import finish, rollback, status
from gallery.checks import check_model
from gallery.names import existing, forward_map, load_upgrade, names_in_store, names_of, pick_new, step_of
from gallery.order import RANDOM, kind_of
from gallery.plan import days, expected, make_plan, thresholds
from gallery.reembed import Worker
from gallery.search import Searcher
from gallery.sources import EmbeddedImages, GivenVectors, Images, Reader, Source, StoredVectors
from gallery.store import hidden, open_store
from serving.upgrade import Upgrade
from tools.gallery.options import parse_arguments
from tools.gallery.tables import print_plan, print_table
from utils.errors import UserError, run


def embedder(args: argparse.Namespace, text: str, images: Images | None) -> EmbeddedImages:
    """The model ``text`` on these images."""
    versions = Version.parse(f"model={text}")
    if len(versions) > 1 or versions[0].is_array:
        raise UserError(f"--model {text}: expected one model file; give vectors with --vectors")
    model = versions[0].open(argparse.Namespace(devices=find_devices(args.device), fp16=args.fp16, pixel_scale=127.5))
    detector = Detector(args.detector, args.face, args.min_score) if args.detector else None
    return EmbeddedImages(images, model, Reader(model.image_size, args.resize, detector), getattr(args, "rate", None))


def source_of(args: argparse.Namespace, upgrade: Upgrade, new: str, needed: bool) -> Source | None:
    """Where new vectors come from; None: it was not said, and is not needed."""
    mapping = forward_map(upgrade, new)
    if mapping and args.vectors is None and not args.model and not (args.images and needed):
        return StoredVectors(mapping)
    if args.vectors is not None and (args.images or args.model):
        raise UserError("give either --vectors, or --images and --model, not both")
    if args.vectors is not None:
        return GivenVectors(args.vectors, args.ids)
    if args.images and args.model:
        return embedder(args, args.model, Images(args.images))
    if needed or args.images or args.model:
        raise UserError("new vectors come from --images FOLDER and --model FILE, or from --vectors FILE; give one of them")
    return None


def order_of(args: argparse.Namespace, upgrade: Upgrade, maps: bool) -> str:
    """The order of --order or of upgrade.json; nothing depends on that in which stored vectors are mapped."""
    return RANDOM if maps and not args.order else kind_of(upgrade.data["order"], args.order)


def do_plan(args: argparse.Namespace) -> None:
    store, upgrade = open_store(args.store, args.id_column, args.vector_column), load_upgrade(args.upgrade)
    new = pick_new(upgrade, args.new)
    source = source_of(args, upgrade, new, False)
    maps = isinstance(source, StoredVectors)
    names = step_of(store, upgrade, new, names_of(store, upgrade, new, args.collection), maps)
    old_source = embedder(args, args.old_model, Images(args.images)) if args.old_model and args.images else None
    if args.old_model and old_source is None:
        raise UserError("--old-model needs --images; give both")
    if old_source is not None:
        check_model(old_source, upgrade.versions[upgrade.old]["fingerprint"], upgrade.old)
    plan = make_plan(store, names, upgrade, new, order_of(args, upgrade, maps), source, old_source)
    entries = args.entries or (plan.entries if plan.with_image is None else plan.with_image)
    time = days(entries, None if maps else args.rate, args.writes, args.workers)
    if args.json:
        facts = {"thresholds": thresholds(upgrade, new)} if maps else {
            "expected": {figure: values.tolist() for figure, values in expected(upgrade, new).items()}}
        print(json.dumps(asdict(plan) | {"days": time} | facts))
        return
    print_plan(args, plan, store.table(names.old), names, upgrade, new, maps, entries, time["together"])
    print("nothing was written")


def do_reembed(args: argparse.Namespace) -> None:
    if not 0 <= args.share <= 1:
        raise UserError(f"--share {args.share}: expected a share of the order, 0 to 1")
    store, upgrade = open_store(args.store, args.id_column, args.vector_column), load_upgrade(args.upgrade)
    new = pick_new(upgrade, args.new)
    source = source_of(args, upgrade, new, True)
    assert source is not None
    maps = isinstance(source, StoredVectors)
    names = step_of(store, upgrade, new, names_of(store, upgrade, new, args.collection), maps)
    worker = Worker(store, upgrade, new, names, source, args.lease)
    result = worker.work(order_of(args, upgrade, maps), args.share, args.limit)
    old, new_table = (existing(store, name) for name in (names.old, names.new))
    counts = {"moved": result.moved, "embedded": result.embedded, "without": len(result.missing),
              "old": store.count(old) if old else 0, "new": store.count(new_table) if new_table else 0}
    if args.json:
        print(json.dumps(counts | {"reasons": {str(entry): why for entry, why in result.missing.items()}}))
        return
    for note in result.notes:
        print(f"note: {note}")
    if result.missing:
        first = ", ".join(f"{entry} ({why})" for entry, why in list(result.missing.items())[:3])
        print(f"{len(result.missing):,} entries stay old: {first}{' and others' if len(result.missing) > 3 else ''}")
    print(f"{result.moved:,} entries moved; now {counts['old']:,} are old and {counts['new']:,} are "
          f"{'mapped' if maps else 'new'} in {hidden(args.store)}")


def do_search(args: argparse.Namespace) -> None:
    store, upgrade = open_store(args.store, args.id_column, args.vector_column), load_upgrade(args.upgrade)
    new = pick_new(upgrade, args.new)
    query = args.query_version or new
    if query not in (upgrade.old, new):
        raise UserError(f"--query-version {query}: expected {upgrade.old} or {new}")
    vectors, labels = query_vectors(args, upgrade, query)
    try:
        hits = Searcher(store, upgrade, names_of(store, upgrade, new, args.collection), query, new)(vectors, args.top, args.far)
    except ValueError as error:                 # of upgrade.json: dimensions, or a rate that it does not have
        raise UserError(str(error)) from error
    if args.json:
        print(json.dumps({label: [asdict(hit) for hit in found] for label, found in zip(labels, hits, strict=True)}))
        return
    decided = ["accepted"] * (args.far is not None)
    for label, found in zip(labels, hits, strict=True):
        rows = [[hit.id, hit.version, f"{hit.score:.4f}", f"{hit.value:.2f}"] + ["yes" if hit.accepted else "no"] * len(decided)
                for hit in found]
        print(f"\n{label}")
        print_table(["id", "version", "cosine", "-log10 FAR", *decided], rows)


def query_vectors(args: argparse.Namespace, upgrade, version: str) -> tuple[np.ndarray, list[str]]:
    """(vectors [Q, d], a label for each) of the images or of the .npy."""
    if args.queries[0].suffix == ".npy":
        if len(args.queries) > 1:
            raise UserError("expected one .npy of query vectors, or images")
        try:
            vectors = np.atleast_2d(np.load(args.queries[0], allow_pickle=False))
        except (ValueError, OSError) as error:
            raise UserError(f"{args.queries[0]} is not a .npy of vectors ({error})") from error
        return vectors, [f"query {row}" for row in range(len(vectors))]
    if not args.model:
        raise UserError("images need --model FILE; or give query vectors in a .npy")
    source = embedder(args, args.model, None)
    check_model(source, upgrade.versions[version]["fingerprint"], version)
    faces = [source.reader(path) for path in args.queries]
    for path, face in zip(args.queries, faces, strict=True):
        if isinstance(face, str):
            raise UserError(f"{path}: {face}")
    return source.embed(np.stack(faces)), [str(path) for path in args.queries]


def do_status(args: argparse.Namespace) -> None:
    store = open_store(args.store, args.id_column, args.vector_column)
    for names in names_in_store(store, args.collection):
        found = status(store, names)
        if args.json:
            print(json.dumps(asdict(found)))
            return
        total = max(found.old + found.new, 1)
        print(f"{names.old}: {found.old:,} old entries, {names.new}: {found.new:,} new ones ({found.new / total:.1%}); "
              f"{found.kept:,} old vectors are kept for a rollback")
        if found.head is None or found.totals is None:
            print("a finish has begun: run it again")
        else:
            print(f"{found.head.old} to {found.head.new}, order: {found.head.order}; {found.totals.done:,} of "
                  f"{found.totals.ranges:,} ranges are done, {found.totals.leased:,} are leased; {found.totals.missing:,} "
                  f"entries had no image" + ("; a rollback has begun: run it again" if found.rolls_back else ""))
        return
    print("{}" if args.json else "no re-embedding: the tables are " + (", ".join(store.tables()) or "none"))


def do_rollback(args: argparse.Namespace) -> None:
    store = open_store(args.store, args.id_column, args.vector_column)
    for names in names_in_store(store, args.collection):
        back, left = rollback(store, names)
        print(f"{back:,} entries have their old vectors again in {names.old}")
        if left:
            print(f"{left:,} entries have only a new vector, because they were enrolled by the new model; they stay in "
                  f"{names.new}, where search finds them. To have them in {names.old}, enrol them again by the old model")
        return
    raise UserError("the store holds no re-embedding; there is nothing to roll back")


def do_finish(args: argparse.Namespace) -> None:
    store = open_store(args.store, args.id_column, args.vector_column)
    for names in names_in_store(store, args.collection):
        found = status(store, names)
        if not args.yes:
            raise UserError(f"finish would remove {found.kept:,} kept old vectors"
                            + (f" and the empty table {names.old}" if not found.old else f"; {found.old:,} entries stay old in "
                               f"{names.old}") + "; there is no way back: add --yes")
        dropped, empty = finish(store, names)
        print(f"{dropped:,} kept old vectors were removed" + (f", and the empty table {names.old}; the gallery is {names.new}"
              if empty else f"; {found.old:,} entries stay old in {names.old}"))
        return
    raise UserError("the store holds no re-embedding; there is nothing to finish")


def main() -> None:
    args = parse_arguments(__doc__)
    {"plan": do_plan, "reembed": do_reembed, "search": do_search, "status": do_status, "rollback": do_rollback,
     "finish": do_finish}[args.command](args)


if __name__ == "__main__":
    run(main)
