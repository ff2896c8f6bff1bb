"""Split a training set into a part for the old model and the rest, by identity and by image, in label order.

    python tools/split_dataset/split_dataset_ms1mv3.py
    python tools/split_dataset/split_dataset_ms1mv3.py --data dataset/mine --force

It reads train.{rec,idx} and writes, into the same folder or --out,
    train_part_30_class   the first round(ratio * C) identities         train_part_70_class   the others, from label 0
    train_part_30_data    of each identity's n images the first         train_part_70_data    the others
                          max(1, round(ratio * n)), but not all of 2 or more
An identity with a single image is in both data parts.  Images are copied byte for byte.  train.rec may be in any order and its
labels may have gaps: the parts are sorted by label, and their people are numbered from 0.  Next to each part a .json says from
which train.rec it is; other commands refuse a part of another train.rec.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from records.split import split
from utils.command_line import Parser, print_written
from utils.errors import UserError, run
from utils.paths import ROOT


def main() -> None:
    parser = Parser(__doc__)
    parser.add_argument("--data", default=str(ROOT / "dataset/ms1m-retinaface-t1"),
                        help="folder of train.rec and train.idx")
    parser.add_argument("--ratio", type=float, default=0.3,
                        help="share of the old part, in (0, 1); the file names have it in %%")
    parser.add_argument("--out", help="folder for the parts (default: --data)")
    parser.add_argument("--force", action="store_true", help="replace parts that are there already")
    args = parser.parse_args()
    if not 0 < args.ratio < 1:
        raise UserError(f"--ratio must be between 0 and 1, found {args.ratio}")
    if round(100 * args.ratio) == 50:
        raise UserError("--ratio 0.5 would give both parts the same name (train_part_50_...); use 0.49 or 0.51")
    split(Path(args.data) / "train.rec", args.ratio, Path(args.out or args.data), args.force)
    print_written(Path(args.out or args.data))


if __name__ == "__main__":
    run(main)
