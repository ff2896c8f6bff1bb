"""Split a training set into an old part and the rest, by identity and by image, in label order.

    python tools/split_dataset/split_dataset_ms1mv3.py [--data dataset/ms1m-retinaface-t1] [--ratio 0.3]

reads train.{rec,idx} and writes, beside it or into --out,
    train_part_30_class   the first round(ratio * C) identities         train_part_70_class   the others, from label 0
    train_part_30_data    of each identity's n images the first         train_part_70_data    the others
                          max(1, round(ratio * n)), but not all of 2 or more
An identity with a single image is in both data parts.  Images are copied byte for byte, in one pass.
"""

import argparse
import sys
from contextlib import ExitStack
from pathlib import Path

import numpy as np
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from records.faces import FaceRecords
from records.recordio import RecordWriter, pack
from utils.command_line import make_folder
from utils.errors import UserError, run
from utils.paths import ROOT


def checked_labels(faces: FaceRecords) -> np.ndarray:
    """int64 [N]; refused unless the labels run 0, 0, ..., 1, ..., C - 1 in file order."""
    labels = faces.labels()
    steps = np.diff(labels, prepend=-1 if labels[0] == 0 else labels[0])
    wrong = np.flatnonzero((steps < 0) | (steps > 1))
    if labels[0] != 0 or len(wrong):
        row = wrong[0] if labels[0] == 0 else 0
        before = f"follows label {labels[row - 1]}" if row else "is the first"
        raise UserError(f"{faces.path}: label {labels[row]} of record {faces.keys[row]} {before}; a split needs labels "
                        f"from 0 up without a gap, in file order: write the file again with tools/make_rec")
    if labels[-1] + 1 != faces.num_classes:
        raise UserError(f"{faces.path}: its header promises {faces.num_classes} classes, its images have "
                        f"{labels[-1] + 1}; write the file again with tools/make_rec")
    return labels


def plan(labels: np.ndarray, ratio: float) -> dict[str, np.ndarray]:
    """For each part bool [N]: which images are in it.  round() is Python's, half to even."""
    counts = np.bincount(labels)
    first_classes = round(ratio * len(counts))
    old_class = labels < first_classes
    taken = np.array([max(1, min(round(ratio * int(n)), int(n) - 1)) for n in counts])
    place = np.arange(len(labels)) - np.repeat(np.cumsum(counts) - counts, counts)
    old_data = place < taken[labels]
    percent = round(100 * ratio)
    return {f"{percent}_class": old_class, f"{100 - percent}_class": ~old_class, f"{percent}_data": old_data,
            f"{100 - percent}_data": ~old_data | (counts[labels] == 1)}


def split(faces: FaceRecords, ratio: float, out: Path) -> None:
    labels = checked_labels(faces)
    parts = plan(labels, ratio)
    for name, members in parts.items():
        if not members.any():
            raise UserError(f"{faces.path}: with --ratio {ratio} no image is left for train_part_{name}; "
                            f"choose a ratio nearer to 0.5")
    make_folder(out, "--out")
    with ExitStack() as stack:
        writers, shift, written = {}, {}, dict.fromkeys(parts, 0)
        for name, members in parts.items():
            writers[name] = stack.enter_context(RecordWriter(out / f"train_part_{name}"))
            kept = labels[members]
            shift[name] = kept.min() if name.endswith("class") else 0
            writers[name].write(0, pack([members.sum() + 1, kept.max() + 1 - shift[name]], b"", 0, 0))
        for i in tqdm(range(len(faces)), unit=" images", disable=None):
            header, image = faces.records.unpack(int(faces.keys[i]))
            for name, members in parts.items():
                if members[i]:
                    written[name] += 1
                    row = np.array(header.label if len(header.label) > 1 else [header.label[0], 0], np.float32)
                    row[0] -= shift[name]
                    writers[name].write(written[name], pack(row, bytes(image), written[name], 0))
    for name, members in parts.items():
        print(f"{out / f'train_part_{name}.rec'}: {members.sum()} images of {len(np.unique(labels[members]))} "
              f"identities")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0],
                                     formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--data", default=str(ROOT / "dataset/ms1m-retinaface-t1"),
                        help="folder of train.rec, train.idx")
    parser.add_argument("--ratio", type=float, default=0.3,
                        help="share of the old part, in (0, 1); names carry it in %%")
    parser.add_argument("--out", help="folder of the parts (default: --data)")
    args = parser.parse_args()
    if not 0 < args.ratio < 1:
        raise UserError(f"--ratio must be between 0 and 1, found {args.ratio}")
    if round(100 * args.ratio) == 50:
        raise UserError("--ratio 0.5 would give both parts the same name (train_part_50_...); take 0.49 or 0.51")
    split(FaceRecords(Path(args.data) / "train"), args.ratio, Path(args.out or args.data))


if __name__ == "__main__":
    run(main)
