"""Fit a map between two finished models on features of the same images, measure it, and write it as .npz and ONNX.

    python tools/adapt/adapt.py --old OLD.npy --new NEW.npy --out adapt_result
    python tools/adapt/adapt.py --old OLD.npy --new NEW.npy --out adapt_result --map ridge low-rank --model NEW.onnx
    python tools/adapt/adapt.py --old OLD.npy --new NEW.npy --out adapt_result --map ridge --reverse
    python tools/adapt/adapt.py --export work_dirs/NAME/map.npz --out adapt_result --model NEW.onnx

No labels, no images and no training of a network: row i of both files is image i (tools/get_feature writes such files). The map
takes queries of the new model to the stored old vectors; with --reverse it takes the stored old vectors to the new model's space,
once. For each map it writes NAME.npz and NAME.onnx, and with --model NAME_model.onnx, images in and mapped embeddings out. NAME
is the kind of map, with "-forward" after it if --reverse, and with "-N-seedS" if --images N --seed S. --export fits nothing: it
writes a map that exists, for example that of a training on features (network=linear or mlp), as ONNX. tools/compare judges maps:

    python tools/compare/compare.py --data dataset --old old=OLD.onnx --new new=NEW.onnx --fitted new=adapt_result/ridge.npz
"""

import argparse
import json
import sys
from collections.abc import Collection
from pathlib import Path

import numpy as np
from prettytable import PrettyTable

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from evaluation.map_files import load_map, save_map
from evaluation.map_forms import Map
from evaluation.map_onnx import map_model, model_and_map, save_onnx, session_of
from evaluation.map_pairs import MIN_IMAGES, Pairs, read_pairs
from evaluation.maps import BACKWARD, FORWARD, KINDS, Fitted, check_related, curve, fit_one
from evaluation.version_features import description_of
from utils.command_line import Parser, at_least, make_folder, print_written
from utils.errors import UserError, run
from utils.files import write_text

TOLERANCE = 1e-4        # largest difference between onnxruntime and numpy, relative to the norm of a mapped row


def parse_arguments() -> argparse.Namespace:
    parser = Parser(__doc__)
    add = parser.add_argument
    add("--old", type=Path, metavar="FILE.npy", help="features [images, d_old] by the old model")
    add("--new", type=Path, metavar="FILE.npy", help="features [images, d_new] of these images by the new model")
    add("--export", type=Path, metavar="MAP.npz", help="write this map as ONNX instead of fitting one")
    add("--out", type=Path, required=True, metavar="FOLDER", help="folder for the maps and adapt.json")
    add("--map", nargs="+", default=["all"], choices=[*KINDS, "all"], metavar="KIND", help=f"kinds of maps: {', '.join(KINDS)}")
    add("--reverse", action="store_true", help="map old vectors to the new space instead of new queries to the old one")
    add("--model", type=Path, metavar="MODEL.onnx", help="also write this model and the map in one file: the new model, with "
        "--reverse the old one")
    add("--images", type=at_least(MIN_IMAGES, int), metavar="N", help="use a random sample of N images (default: all)")
    add("--seed", type=at_least(0, int), default=0, help="seed of the sample and of the residual MLP")
    add("--samples", type=at_least(0, int), default=3, help="random samples per point of the curve; 0: no curve")
    args = parser.parse_args()
    if bool(args.export) == bool(args.old and args.new) or bool(args.old) != bool(args.new):
        parser.error("expected --old and --new to fit maps, or --export to write one that exists")
    return args


def table_of(results: list[Fitted], steps: dict[int, dict[str, list[float]]]) -> str:
    """A row for each map, and the curve: mean error over the samples at each number of images."""
    table = PrettyTable(["map", "strength", "held-out error", "cosine", "seconds", *(f"{count:,}" for count in steps)], align="r")
    table.align["map"] = table.align["strength"] = "l"
    for fitted in results:
        points = [np.mean(step[fitted.kind]) for step in steps.values()]
        table.add_row([fitted.kind, fitted.strength, f"{fitted.error:.4f}", f"{fitted.cosine:.4f}", f"{fitted.seconds:.1f}",
                       *(f"{point:.4f}" for point in points)])
    return table.get_string()


def note_on(pairs: Pairs, steps: Collection[int]) -> str:
    """What the numbers of the table are."""
    text = ("Held-out error: |mapped - target|^2 per row of norm 1, on a tenth of the images that neither the fit nor the choice "
            "of the strength has seen; 0 is perfect. Cosine: their mean cosine. The map itself is then fitted on all images.")
    if steps:
        text += " Last columns: the error of maps that are fitted on so many images."
    small = min([len(pairs), *steps])
    if small < max(pairs.dims):
        text += (f"\n{small} images are fewer than {max(pairs.dims)} dimensions: there Procrustes is not determined by the "
                 f"images, and the others rest on their strength.")
    return text


def check_onnx(session, mapping: Map, rows: np.ndarray, file: Path) -> None:
    """UserError if the ONNX map differs from the map on these features [n, d_in]."""
    expected = mapping(rows)
    actual = session.run(None, {"embedding": np.asarray(rows, np.float32)})[0]
    difference = np.abs(actual - expected).max() / max(1e-12, np.linalg.norm(expected, axis=1).max())
    if not difference <= TOLERANCE:
        raise UserError(f"{file} differs from the map by {difference:.1e} of its largest row, expected at most {TOLERANCE:.0e}; "
                        f"nothing was written: install the versions in requirements.txt")


def suffix(args: argparse.Namespace) -> str:
    """What the names of all files of this run end in."""
    return ("-forward" if args.reverse else "") + (f"-{args.images}-seed{args.seed}" if args.images else "")


def write_map(fitted: Fitted, args: argparse.Namespace, pairs: Pairs) -> list[str]:
    """Write the files of a map; their names."""
    name = fitted.kind + suffix(args)
    written = write_onnx(fitted.map, name, args, pairs.x[pairs.rows[:256]])
    models = {side: description_of(file) for side, file in (("new", args.new), ("old", args.old))}
    save_map(args.out / f"{name}.npz", fitted, FORWARD if args.reverse else BACKWARD, models)
    return [*written, f"{name}.npz"]


def write_onnx(mapping: Map, name: str, args: argparse.Namespace, rows: np.ndarray) -> list[str]:
    """Write ``name``.onnx and with --model ``name``_model.onnx; their names.  rows: features on which the first is compared."""
    file = args.out / f"{name}.onnx"
    alone = map_model(mapping)
    check_onnx(session_of(alone.SerializeToString(), file), mapping, rows, file)
    models = {file: alone} | ({args.out / f"{name}_model.onnx": model_and_map(args.model, mapping)} if args.model else {})
    for path, model in models.items():
        save_onnx(path, model)
    return [path.name for path in models]


def export(args: argparse.Namespace) -> None:
    """--export: an existing map as ONNX, compared on random rows."""
    if not args.export.is_file():
        raise UserError(f"no file {args.export}; expected a map that this tool or a training on features wrote")
    mapping, direction, _ = load_map(args.export)
    make_folder(args.out, "--out")
    rows = np.random.default_rng(0).standard_normal((256, mapping.dims[0])).astype(np.float32)
    written = write_onnx(mapping, args.export.stem, args, rows)
    print(f"{args.export}: {direction}, {mapping.dims[0]} to {mapping.dims[1]} dimensions\n{', '.join(written)} in the folder:")
    print_written(args.out)


def main() -> None:
    args = parse_arguments()
    if args.export:
        export(args)
        return
    kinds = KINDS if "all" in args.map else tuple(dict.fromkeys(args.map))
    pairs = read_pairs(args.new, args.old)
    pairs = pairs.reversed() if args.reverse else pairs
    check_related(pairs, f"{args.new} and {args.old}")
    if (args.images or 0) > len(pairs):
        raise UserError(f"--images {args.images}: {args.new} holds {len(pairs)}; expected at most that many")
    pairs = pairs.sample(args.images, args.seed) if args.images else pairs
    if args.model:
        model_and_map(args.model, Map(np.zeros(pairs.dims, np.float32), np.zeros(pairs.dims[1], np.float32)))     # refused early
    make_folder(args.out, "--out")
    results, written = [], []
    for kind in kinds:
        print(f"fitting {kind} on {len(pairs):,} images (lambda-orthogonal and residual-MLP take minutes) ...", file=sys.stderr)
        fitted = fit_one(kind, pairs, args.seed)
        print(f"{kind}: {fitted.seconds:.1f} s, held-out error {fitted.error:.4f}", flush=True)
        results.append(fitted)
        written += write_map(fitted, args, pairs)
    if args.samples:
        print("fitting all of them again on fewer images, for the curve (--samples 0: none) ...", file=sys.stderr)
    steps = curve(kinds, pairs, args.samples) if args.samples else {}
    direction = "old vectors to the new space" if args.reverse else "new queries to the old space"
    print(f"\n{direction}, {pairs.dims[0]} to {pairs.dims[1]} dimensions, {len(pairs):,} images\n{table_of(results, steps)}\n"
          f"{note_on(pairs, steps)}")
    facts = {fitted.kind: {"strength": fitted.strength, "error": fitted.error, "cosine": fitted.cosine, "seconds": fitted.seconds,
                           "curve": {count: step[fitted.kind] for count, step in steps.items()}} for fitted in results}
    name = f"adapt{suffix(args)}.json"
    write_text(args.out / name, json.dumps({"direction": FORWARD if args.reverse else BACKWARD, "old": str(args.old),
                                           "new": str(args.new), "images": len(pairs), "maps": facts}, indent=1) + "\n")
    print(f"\n{', '.join(written)} and {name} are in the folder:")
    print_written(args.out)


if __name__ == "__main__":
    run(main)
