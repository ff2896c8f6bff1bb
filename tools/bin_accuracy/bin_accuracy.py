"""Accuracy of models on verification sets (.bin files: lfw, cfp_fp, agedb_30 ...), ten folds, as a training reports it.

    python tools/bin_accuracy/bin_accuracy.py dataset/ms1m-retinaface-t1/lfw.bin --models new=work_dirs/NEW/model.pt:r50
    python tools/bin_accuracy/bin_accuracy.py lfw.bin cfp_fp.bin --models old=old.onnx,input=raw,bgr new=NEW/model.pt:r50
    python tools/bin_accuracy/bin_accuracy.py lfw.bin --models service=vectors.npy
    python tools/bin_accuracy/bin_accuracy.py lfw.bin cfp_fp.bin --models service=FOLDER      (FOLDER/lfw.npy, FOLDER/cfp_fp.npy)

A model embeds each image and its mirror image, and the two are added. Embeddings in a .npy are those of the .bin's images in
its order: [2P, d] for P pairs, or [2, 2P, d] with the mirror images. The accuracy is the mean over ten folds of the pairs; the
threshold of each fold is chosen on the nine others.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import torch
from prettytable import PrettyTable
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from engine.verification import ten_fold_accuracy
from evaluation.feature_files import check_kind, load_npy
from evaluation.models import EmbeddingModel, find_devices
from evaluation.version_names import Version
from records.bins import load_bin
from utils.command_line import Parser, at_least
from utils.errors import UserError, run

USUAL_SIZE = 112        # pixels of a .bin's images, if only embeddings are given
DEVIATIONS = 3          # standard deviations of a guess; an accuracy below is not distinguishable from guessing


def parse_arguments() -> argparse.Namespace:
    parser = Parser(__doc__)
    add = parser.add_argument
    add("bins", nargs="+", type=Path, metavar="FILE.bin", help="verification sets: pairs of aligned faces")
    add("--models", nargs="+", required=True, metavar="NAME=FILE[:NETWORK][,WORDS]",
        help="FILE: .pt with its network, .onnx, MXNet's PREFIX,EPOCH, embeddings as .npy, or a folder that has embeddings "
             "SET.npy for each SET.bin; WORDS: the model's input, if what is found in its file is wrong, for example "
             ",input=raw,bgr or ,input=127.5/128 for (pixel - 127.5) / 128")
    add("-b", "--batch_size", type=at_least(1, int), default=128, help="images per step")
    add("--fp16", action="store_true", help="half precision for .pt files, if the device supports it")
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="cpu, cuda or cuda:K")
    args = parser.parse_args()
    args.devices, args.pixel_scale = find_devices(args.device)[:1], 127.5
    return args


def open_versions(args: argparse.Namespace) -> list[tuple[str, Version, EmbeddingModel | None]]:
    """(row of the table, version, its model; None for embeddings); a wrong file is reported before anything is embedded."""
    opened: list[tuple[str, Version, EmbeddingModel | None]] = []
    for text in args.models:
        trainings = Version.parse(text)
        for number, version in enumerate(trainings, 1):
            name, file, model = version.name + f" {number}" * (len(trainings) > 1), Path(version.file), None
            if file.suffix.lower() == ".npz":
                raise UserError(f"{text}: expected embeddings as .npy; write the array with np.save")
            if file.suffix.lower() == ".npy" and len(args.bins) > 1:
                raise UserError(f"{text} is one file of embeddings for {len(args.bins)} sets; expected a folder that has "
                                f"{' and '.join(f'{path.stem}.npy' for path in args.bins)}")
            if not file.is_dir() and not version.is_array:
                model = version.open(args)
                print("\n".join([f"{name}:", *model.notes]), flush=True)
            opened.append((name, version, model))
    names = [name for name, _, _ in opened]
    if len(set(names)) < len(names):
        raise UserError(f"expected a different name for each model, found {', '.join(names)}; rename one")
    return opened


def read_embeddings(file: Path, version: Version, images: int) -> np.ndarray:
    """Sums of both views, float32 [images, d], from embeddings of the images, [images, d] or [2, images, d].

    UserError for anything else.
    """
    if not file.is_file():
        raise UserError(f"no file {file}: expected the embeddings of the {images} images by {version.name}")
    array = load_npy(file)
    check_kind(array, file)
    views = list(array if array.ndim == 3 else array[None])
    if not 1 <= len(views) <= 2 or any(view.ndim != 2 or len(view) != images for view in views):
        raise UserError(f"{file} holds {array.dtype} {list(array.shape)}; expected the embeddings of the set's {images} images "
                        f"in its order, [{images}, d] or [2, {images}, d]")
    with np.errstate(over="ignore"):
        return np.sum([np.asarray(view, np.float32) for view in views], axis=0)


def embed(model: EmbeddingModel, images: Tensor, batch_size: int) -> np.ndarray:
    """Sums of the embeddings of images and mirror images, float32 [N, d].  images: uint8 [N, S, S, 3] RGB."""
    replica = model.replicas()[0]
    return np.concatenate([replica(images[start:start + batch_size]).sum(0) for start in range(0, len(images), batch_size)])


def cell(sums: np.ndarray, same: np.ndarray, name: str, path: Path) -> str:
    """The text of the table, and a warning on the terminal if the accuracy may be one of guessing."""
    with np.errstate(over="ignore", invalid="ignore"):              # a norm that float32 cannot hold is infinite, too
        norm = np.linalg.norm(sums, axis=1, keepdims=True)
    unusable = np.flatnonzero(~np.isfinite(norm) | (norm == 0))
    if len(unusable):
        row = unusable[0]
        raise UserError(f"{name} gives NaN, infinity or only zeros for image {row} of {path}; embed it again, without "
                        f"--fp16, or check whether the training diverged")
    accuracy, deviation, threshold = ten_fold_accuracy(sums / norm, same)
    guess = max(same.mean(), 1 - same.mean())           # of somebody who always gives the more frequent answer
    if guess == 1:
        print(f"warning: the pairs of {path.name} are all of one kind: its accuracy says nothing", file=sys.stderr)
    elif accuracy < guess + DEVIATIONS * np.sqrt(guess * (1 - guess) / len(same)):
        print(f"warning: {name} guesses on {path.name}: {100 * accuracy:.2f} % of {len(same)} pairs, where always the "
              f"same answer has {100 * guess:.2f} %; do the rows belong to the images, and is the model's input right?",
              file=sys.stderr)
    return f"{100 * accuracy:.2f} +- {100 * deviation:.2f} ({1 - threshold / 2:.3f})"


def check_sets(paths: list[Path]) -> None:
    """UserError for a set that is missing or named twice."""
    for path in paths:
        if not path.is_file():
            raise UserError(f"no file {path}: expected a verification set, for example lfw.bin")
    if len({path.stem for path in paths}) < len(paths):
        raise UserError(f"expected sets of different names, found {', '.join(map(str, paths))}; give each once")


def rows_of(args: argparse.Namespace) -> list[list[str]]:
    """A row of the table for each model: name, dimensions, a cell for each set."""
    check_sets(args.bins)
    versions = open_versions(args)
    rows = [[name, ""] for name, _, _ in versions]
    for path in args.bins:
        sets: dict[int, tuple[Tensor, np.ndarray]] = {}         # by image size
        for row, (_, version, model) in zip(rows, versions, strict=True):
            size = model.image_size if model else next(iter(sets), USUAL_SIZE)
            if size not in sets:
                sets[size] = load_bin(path, size)
            images, same = sets[size]
            if model:
                sums = embed(model, images, args.batch_size)
            else:
                folder = Path(version.file)
                sums = read_embeddings(folder / f"{path.stem}.npy" if folder.is_dir() else folder, version, len(images))
            row[1] = str(sums.shape[1])
            row.append(cell(sums, same, row[0], path))
    return rows


def main() -> None:
    args = parse_arguments()
    rows = rows_of(args)
    table = PrettyTable(["accuracy in %", "dimensions", *(path.stem for path in args.bins)], align="r")
    table.align["accuracy in %"] = "l"
    table.add_rows(rows)
    print(table.get_string())
    print("mean +- standard deviation over the ten folds; in brackets the mean threshold, as a cosine")


if __name__ == "__main__":
    run(main)
