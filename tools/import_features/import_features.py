"""Old features from elsewhere: vectors with ids or file names become the old features of a training set, in record order.

    python tools/import_features/import_features.py vectors.npy --ids ids.txt --dataset dataset/mine --SD f128_old_class100
    python tools/import_features/import_features.py vectors.csv --dataset dataset/mine --SD f128_old_class70 --missing leave-out
    python tools/import_features/import_features.py vectors.csv --ijb dataset/mine_ijb --out old.npy

An id is compared with the path of each image in <dataset>/images.txt, which tools/make_rec writes. It writes what
tools/get_feature writes: feature_save/<scenario>/<SD>_feature.npy [images, d] and <SD>_label.npy; the last part of --SD
(class100 data100 class70 data70 class30 data30) names the record file. With --ijb the vectors are those of
the images of an evaluation set, and --out becomes [images, d] in the order of its landmark file, for tools/compare and
reproduce.sh --old-eval. Vectors: .npy with --ids, .npz, .csv, .tsv, .parquet.
"""

import argparse
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from evaluation.protocol import GALLERIES
from old_model.names import FEATURE_SAVE, artefact, part_of
from old_model.present import MISSING, save_present
from old_model.vectors import EXAMPLES, Match, Vectors, match, read_vectors
from records.faces import FaceRecords
from records.ordered import LIST, refuse_other_list
from records.parts import refuse_other_parts, source_of
from records.split import plan
from tools.import_features.evaluation_list import evaluation_list
from utils.command_line import Parser, print_written
from utils.errors import UserError, run
from utils.files import file_hash, new_array, read_lines, written_beside
from utils.locks import hold
from utils.origin import save_array, save_origin
from utils.paths import ROOT

BLOCK = 65_536          # rows in memory at a time
PAIRS = 2_000           # pairs of one person, and of two, whose cosines are compared
SECONDS_FOR_LOCK = 5    # that an import waits for a process that is about to end
UNIT = 1e-3             # largest difference of a norm from 1 of a vector that counts as normalised


def read_images(file: Path) -> tuple[np.ndarray, list[str]]:
    """(labels int64 [N], paths) of an images.txt; UserError if its rows are not 0, 1, ... N - 1."""
    if not file.is_file():
        raise UserError(f"no file {file}: expected the path of each image of the record file; make both with tools/make_rec")
    lines = read_lines(file)
    rows = [line.split("\t") for line in lines[lines[:1] == ["row\tlabel\tperson\tpath"]:]]
    wrong = next((number for number, row in enumerate(rows)
                  if len(row) != 4 or row[0] != str(number) or not row[1].isdecimal()), None)
    if wrong is not None or not rows:
        found = "no row" if wrong is None else lines[wrong + len(lines) - len(rows)][:80]
        raise UserError(f"{file}: expected rows of row, label, person and path with tabs between them, numbered from 0; found "
                        f"'{found}'; write it again with tools/make_rec")
    return np.array([int(row[1]) for row in rows]), [row[3] for row in rows]


def images_of(dataset: Path, part: str, file: Path) -> tuple[FaceRecords, np.ndarray, list[str]]:
    """(the record file ``part``, its labels int64 [N], the path of each of its images) from the list of the whole train.rec.

    UserError if the list does not belong to the record files.
    """
    listed, paths = read_images(file)
    if file == dataset / LIST:
        refuse_other_list(dataset / "train.rec")
    records = FaceRecords(dataset / part)
    refuse_other_parts([records.path])
    labels = records.labels()
    members = np.ones(len(listed), bool)
    if part != "train":
        percent, kind = part.removeprefix("train_part_").split("_")
        members = plan(listed, source_of(records.path).get("ratio", 0.3))[f"{percent}_{kind}"]
    chosen = listed[members]
    if len(chosen) != len(labels) or (chosen - (chosen.min() if part.endswith("class") else 0) != labels).any():
        raise UserError(f"{file} lists {len(chosen)} images for {records.path}, which has {len(labels)}, or other labels; "
                        f"expected the list that was written with it: run tools/make_rec, then tools/split_dataset")
    return records, labels, [path for path, member in zip(paths, members, strict=True) if member]


def check_match(found: Match, paths: list[str], source: Path, leave_out: bool) -> None:
    """Print the counts of both sides; UserError if an image has no vector, unless such images are left out."""
    missing = np.flatnonzero(found.rows < 0)
    print(f"{len(paths) - len(missing)} of {len(paths)} images have a vector, compared by {found.key}; {found.unused} vectors "
          f"belong to no image of this record file")
    if len(missing) and leave_out:
        print(f"{len(missing)} images take part in training without the old side's term: {first_of(paths, missing)}")
    elif len(missing):
        raise UserError(f"{len(missing)} of {len(paths)} images have no vector in {source}: {first_of(paths, missing)}; add "
                        f"their vectors, or give --missing leave-out: they take part in training without the old side's term")


def first_of(paths: list[str], rows) -> str:
    """The first paths of ``rows``, for messages."""
    names = ", ".join(paths[row] for row in rows[:EXAMPLES])
    return f"{names} and others" if len(rows) > EXAMPLES else names


def check_rows(vectors: Vectors, rows: np.ndarray, paths: list[str], source: Path) -> bool:
    """Whether the vectors are normalised.  UserError, with the first names, if one of them has no direction."""
    bad: list[int] = []
    normalised = True
    for start in range(0, len(rows), BLOCK):
        with np.errstate(over="ignore", invalid="ignore"):
            norm = np.linalg.norm(vectors.values[rows[start:start + BLOCK]].astype(np.float32), axis=1)
        bad += (start + np.flatnonzero(~np.isfinite(norm) | (norm == 0))).tolist()
        normalised &= bool((np.abs(norm - 1) <= UNIT).all())
    if bad:
        raise UserError(f"{len(bad)} vectors of {source} have NaN, infinity or only zeros: {first_of(paths, bad)}; embed these "
                        f"images again, or leave them out of the folder and run tools/make_rec again")
    return normalised


def same_and_other(vectors: Vectors, rows: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Cosines of up to PAIRS pairs of one person, and of as many of two persons; both empty if nobody has two images."""
    draw, order = np.random.default_rng(0), np.argsort(labels, kind="stable")
    first = order[np.flatnonzero(np.diff(labels[order]) == 0)]
    second = order[np.flatnonzero(np.diff(labels[order]) == 0) + 1]
    chosen = draw.permutation(len(first))[:PAIRS]
    other = draw.integers(0, len(rows), len(chosen))
    other = np.where(labels[other] == labels[first[chosen]], (other + len(rows) // 2) % len(rows), other)
    kept = labels[other] != labels[first[chosen]]

    def cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        x, y = (vectors.values[rows[side]].astype(np.float64) for side in (a, b))
        return (x * y).sum(1) / np.linalg.norm(x, axis=1) / np.linalg.norm(y, axis=1)
    return cosines(first[chosen], second[chosen]), cosines(first[chosen][kept], other[kept])


def doubt(same: np.ndarray, other: np.ndarray) -> str | None:
    """A warning if vectors of one person are not nearer to each other than those of two; None if they are or nobody knows."""
    if min(len(same), len(other)) < 10:
        return None
    error = np.sqrt(same.var() / len(same) + other.var() / len(other))
    if same.mean() - other.mean() > 3 * error:
        return None
    return (f"warning: two vectors of one person have a mean cosine of {same.mean():.3f}, of two persons {other.mean():.3f}: do "
            f"ids and vectors belong together?")


def refuse_existing(target: Path, force: bool) -> None:
    if target.exists() and not force:
        raise UserError(f"{target} exists; give another --SD or --feature-save, or --force to replace it")


def parse_arguments() -> argparse.Namespace:
    parser = Parser(__doc__)
    parser.add_argument("vectors", type=Path, metavar="FILE", help="vectors: .npy, .npz, .csv, .tsv or .parquet")
    parser.add_argument("--ids", type=Path, metavar="FILE.txt", help="ids of a .npy, one a line")
    parser.add_argument("--SD", help="source and data: a name of your choice, then _class70, _data100, ...")
    parser.add_argument("--dataset", type=Path, default=ROOT / "dataset", help="folder of the record files")
    parser.add_argument("--images", type=Path, metavar="FILE", help="list of the images (default: <dataset>/images.txt)")
    parser.add_argument("--feature-save", default=FEATURE_SAVE,
                        help="folder of the old features; if relative, below the repository")
    parser.add_argument("--missing", choices=MISSING, default="refuse",
                        help="images without a vector: refuse, or write zeros and mark them in <SD>_present.npy: they take "
                             "part in training without the old side's term")
    parser.add_argument("--ijb", type=Path, metavar="DIR", help="instead of --SD: the evaluation set that the vectors belong to")
    parser.add_argument("--subset", default="IJBC", choices=list(GALLERIES), help="data set in --ijb")
    parser.add_argument("--out", type=Path, metavar="FILE.npy", help="file for the vectors of --ijb")
    parser.add_argument("--dry-run", action="store_true", help="only compare ids and check the vectors; write nothing")
    parser.add_argument("--force", action="store_true", help="replace features that exist")
    args = parser.parse_args()
    if (args.SD is None) == (args.ijb is None) or (args.ijb is None) != (args.out is None):
        raise UserError("expected --SD for vectors of training images, or --ijb and --out for those of an evaluation set")
    if args.out is not None and args.out.suffix != ".npy":
        raise UserError(f"--out {args.out}: expected a name that ends in .npy")
    return args


def look_at(vectors: Vectors, found: Match, paths: list[str], labels: np.ndarray, source: Path, leave_out: bool = False) -> dict:
    """Compare and check the vectors, and print what was found; what their origin says.  UserError if one is unusable.

    leave_out: images without a vector are counted instead of refused.
    """
    check_match(found, paths, source, leave_out)
    present = found.rows >= 0
    rows, named = found.rows[present], [path for path, member in zip(paths, present, strict=True) if member]
    normalised = check_rows(vectors, rows, named, source)
    warning = doubt(*same_and_other(vectors, rows, labels[present]))
    if warning:
        print(warning, file=sys.stderr)
    return {"images": len(paths), "dim": vectors.values.shape[1], "source": source.name, "matched by": found.key,
            "normalised": normalised, "similarity": "cosine"}


def import_evaluation(args: argparse.Namespace) -> None:
    """Write --out, the vectors of the images of --ijb."""
    if args.out.exists() and not args.force:
        raise UserError(f"{args.out} exists; give another --out, or --force to replace it")
    vectors = read_vectors(args.vectors, args.ids)
    names, people, found = evaluation_list(args.ijb, args.subset, vectors.ids, args.vectors)
    origin = look_at(vectors, found, names, people, args.vectors)
    if not args.dry_run:
        save_array(args.out, np.asarray(vectors.values[found.rows], np.float32), origin)
        print(f"{len(names)} vectors of {origin['dim']} dimensions")
        print_written(args.out)


def import_training(args: argparse.Namespace) -> None:
    """Write the old features of --SD."""
    target, label_target = (artefact(str(ROOT / args.feature_save), args.SD, kind) for kind in ("feature", "label"))
    refuse_existing(target, args.force)
    records, labels, paths = images_of(args.dataset, part_of(args.SD)[1], args.images or args.dataset / LIST)
    vectors = read_vectors(args.vectors, args.ids)
    found = match(vectors.ids, paths, args.vectors)
    present = found.rows >= 0
    about = look_at(vectors, found, paths, labels, args.vectors, args.missing == "leave-out")
    if args.dry_run:
        return
    files = [args.vectors, args.ids] if args.ids else [args.vectors]
    origin = {"model": file_hash(files), "records": records.fingerprint()} | about
    refusal = f"another process writes {target}; wait until it ends, and start again; or give another --SD or --feature-save"
    with hold(target.with_name(f"{args.SD}.lock"), refusal, SECONDS_FOR_LOCK):         # the lock of tools/get_feature
        refuse_existing(target, args.force)                                 # it may have been written meanwhile
        save_array(label_target, labels, origin)
        with written_beside(target) as part:
            out = new_array(part, np.float32, (len(paths), about["dim"]))
            for start in range(0, len(out), BLOCK):
                block = found.rows[start:start + BLOCK]
                out[start:start + BLOCK][block >= 0] = vectors.values[block[block >= 0]]
            out.flush()
        save_origin(target, origin)
        save_present(target, present, origin)
    print(f"{len(paths)} features of {about['dim']} dimensions")
    print_written(target)


def main() -> None:
    args = parse_arguments()
    if args.ijb:
        import_evaluation(args)
    else:
        import_training(args)


if __name__ == "__main__":
    run(main)
