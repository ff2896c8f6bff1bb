"""Can this model replace the old one, and what does it cost? One command answers with one page.

    python tools/compare/compare.py --data dataset --old old=work_dirs/OLD/model.pt:r18 \\
        --new MixBCT=work_dirs/NEW/model.pt:r50 --paragon paragon=work_dirs/PARAGON/model.pt:r50 --out compare_result

Every version's queries are compared with every version's gallery, 1:1 and 1:N. Writes <out>/index.html (the page, one file),
compare.json (all figures, shares in [0, 1]), compare.txt (the tables), *.png, flips_<NAME>.csv, and upgrade.json with the maps
(*.npz) for the search system (serving/upgrade.py reads it). Images are embedded once per version; the embeddings are kept
(--embeddings).
"""

import argparse
import csv
import json
import os
import sys
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
from evaluation.evaluation_set import MIN_ERRORS, read_evaluation
from evaluation.maps import KINDS
from evaluation.models import find_devices
from evaluation.protocol import GALLERIES
from evaluation.versions import Versions
from tools.compare.answer import answer_table
from tools.compare.page import write_page
from tools.compare.pictures import draw_pictures
from tools.compare.report import Comparison
from tools.compare.sentences import verdict_line
from tools.compare.tables import tables_of
from tools.compare.upgrade_file import write_upgrade
from utils.command_line import Parser, at_least, make_folder, print_written
from utils.errors import UserError, run
from utils.files import disk_errors, write_text, written_beside
from utils.locks import hold_folder

PATIENCE = 2.0          # seconds to wait for a comparison into the same folder


def add_versions(add) -> None:
    """The options that name versions and their maps."""
    version = "NAME=FILE[:NETWORK][,WORDS][,FILE ...]"
    add("--old", required=True, metavar=version, help="the version that embedded the stored gallery; FILE: .pt with its network, "
        ".onnx, MXNet's PREFIX,EPOCH, embeddings as .npy or .npz, or a folder of gallery.npy and probe.npy; WORDS: "
        "the model's input, if what is found in its file is wrong, for example ,input=raw,bgr or ,input=127.5/128 for (pixel - "
        "127.5) / 128; several files are trainings of one version that differ in their seed: figures are means, and verdicts "
        "count people and seeds")
    add("--new", required=True, nargs="+", metavar=version, help="candidates; with --sequence the versions after the old one")
    add("--paragon", metavar=version, help="a new model trained without the old one; shows what full re-embedding could reach")
    add("--sequence", action="store_true", help="--new are successive versions, oldest first; adds AC, the share of the pairs "
        "(newer, older) that meet the criterion")
    add("--old-features", metavar="FILE.npy[,FILE.npy ...]", help="old features of training images, for the free baselines")
    add("--new-features", nargs="+", default=[], metavar="NAME=FILE.npy[,FILE.npy ...]",
        help="features of the same images by these versions; each version gets the --maps to the old features")
    add("--maps", nargs="+", default=["Procrustes", "ridge"], choices=KINDS, metavar="KIND",
        help=f"maps that are fitted to --new-features: {', '.join(KINDS)}")
    add("--forward", action="store_true", help="also fit maps from the old to the new features, which map the stored gallery")
    add("--fitted", nargs="+", default=[], metavar="NAME=FILE.npz", help="maps of these versions, written by tools/adapt")


def parse_arguments() -> argparse.Namespace:
    parser = Parser(__doc__)
    add = parser.add_argument
    add_versions(add)
    add("-d", "--data", type=Path, default=ROOT / "dataset",
        help="folder of IJBC or IJBB, or of gallery_label.npy and probe_label.npy (and pairs.npy)")
    add("-s", "--subset", default="IJBC", choices=list(GALLERIES), help="data set in an IJB folder")
    add("--out", type=Path, default=Path("compare_result"), help="folder for the page and its files")
    add("--title", default="Can the new model replace the old one?", help="heading of the page")
    add("--metrics", nargs="+", metavar="METRIC", help="figures in tables and pictures, for example TAR@1e-4 top-1 TPIR@1e-2; "
        f"(default: top-1, and TAR and TPIR at the smallest rates that rest on {MIN_ERRORS} errors)")
    add("--margin", type=at_least(0, float), default=1.0, metavar="POINTS",
        help="accepted loss against the old model, in percentage points: a figure is safe if its interval is above -POINTS")
    add("--missing", default="refuse", choices=["refuse", "count"], help="templates of an IJB folder without an image. count: "
        "they are never matched, which lowers TAR and TPIR but neither FAR nor FPIR")
    add("--draws", type=at_least(0, int), default=1000, help="bootstrap samples of the subjects; 0: no intervals")
    add("--seed", type=at_least(0, int), default=0, help="seed of the bootstrap")
    add("--backfill", type=at_least(0, int), default=10, metavar="STEPS", help="steps of re-embedding the gallery; 0: none")
    add("--orders", type=at_least(1, int), default=5, metavar="SEEDS", help="number of random orders of re-embedding")
    add("--rate", type=at_least(1e-3, float), default=100.0, metavar="N", help="images per second that your machines embed, "
        "for the picture of the time that re-embedding takes")
    add("--stored-images", type=at_least(1, int), default=1_000_000, metavar="N", help="images in your gallery, for that picture")
    add("--part", type=float, default=0.8, help="share of the full gain, 0 to 1, for which the cost of re-embedding is reported")
    add("--embeddings", type=Path, help="folder of kept embeddings (default: <out>/embeddings)")
    add("-F", "--force", "--force_reload", action="store_true", help="compute embeddings again even if they are kept")
    add("-b", "--batch_size", type=at_least(1, int), default=128, help="images per step and device")
    add("--workers", type=at_least(0, int), default=min(8, os.cpu_count() or 1), help="processes that read and align images")
    add("--pixel-scale", type=at_least(1, float), default=127.5, help="input of a model that does not normalise itself is "
        "(pixel - 127.5) / this")
    add("--fp16", action="store_true", help="half precision for .pt files, if the device supports it")
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="cpu, cuda (all GPUs) or cuda:K")
    args = parser.parse_args()
    args.devices = find_devices(args.device)
    args.embeddings = args.embeddings or args.out / "embeddings"
    return args


def write_all(report: dict, lists: dict, out: Path) -> None:
    """Write the files of the result, the page last; each is complete or not there.  Then remove older files with such names."""
    flipped = {out / f"flips_{name}.csv": rows for name, rows in lists.items() if rows}
    for path, rows in flipped.items():
        with written_beside(path) as part, open(part, "w", newline="") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)
    tables = tables_of(report)
    warnings = [f"WARNING: {text}" for text in report["warnings"]]
    lines = [verdict_line(name, report) for name in report["upgrades"]] + report["notes"]
    first = f"ANSWER: {report['answer']['word']}. {report['answer']['text']}"
    texts = [answer_table(report).text(), "\n".join(warnings + lines), *(table.text() for table in tables)]
    files = {"compare.json": json.dumps(report, indent=1, allow_nan=False) + "\n",
             "compare.txt": "\n\n".join([first, *texts]) + "\n"}
    for name, content in files.items():
        write_text(out / name, content)
    pictures = draw_pictures(report, out)
    write_page(report, tables, pictures, out / "index.html")
    for pattern in ("flips_*.csv", "scatter_*.png", "matrix_*.png", "roc_*.png", "backfill_*.png", "way_*.png"):
        for earlier in set(out.glob(pattern)) - {*flipped, *pictures.values()}:
            with disk_errors(earlier):
                earlier.unlink(missing_ok=True)
    print("\n\n".join(["", *texts[:2], first]))
    print(f"\ncompare.txt has all {len(tables)} tables; next to it are compare.json, {len(pictures)} pictures, flips of "
          f"{sum(map(bool, lists.values()))} models, and the page")
    print_written(out / "index.html")


def main() -> None:
    args = parse_arguments()
    if not 0 < args.part <= 1:
        raise UserError(f"--part {args.part}: expected a share of the gain in (0, 1], for example 0.8")
    make_folder(args.out, "--out")
    refusal = f"another comparison writes into {args.out}; wait until it has ended, or give another folder with --out"
    with hold_folder(args.out, refusal, PATIENCE):
        compare(args)


def compare(args: argparse.Namespace) -> None:
    """Read everything, compare, and write the files of the result.  UserError if the inputs do not fit."""
    evaluation = read_evaluation(args.data, args.subset, args.missing == "count")
    metrics = evaluation.metrics()
    if not metrics:
        raise UserError(f"{args.data} has neither pairs nor a mated probe; expected at least one of them to compare models by")
    unknown = [metric for metric in args.metrics or [] if metric not in metrics]
    if unknown:
        raise UserError(f"--metrics {unknown[0]} is not a figure that this data supports; expected some of {' '.join(metrics)}")
    versions = Versions(args, evaluation)
    if not any(versions.fits(name, versions.old) for name in versions.candidates):
        raise UserError("; ".join(versions.notes))
    comparison = Comparison(args, evaluation, versions)
    report, lists = comparison.report()
    versions.check_unchanged()
    note = write_upgrade(comparison, report, args.out)
    report["notes"] += [note] if note else []
    write_all(report, lists, args.out)


if __name__ == "__main__":
    run(main)
