"""Make a rehearsal set of synthetic faces, in the layouts of MS1MV3, of a verification .bin and of IJB-C.

    python tools/rehearsal/make_rehearsal.py --out drawn --size 32

It writes <out>/ms1m-retinaface-t1/{train.rec,train.idx,property,rehearsal.bin}, <out>/ijb/IJBC/{loose_crop,meta} and
<out>/rehearsal.txt (its settings).  It replaces the rehearsal set of an earlier run, and refuses to replace other data.
Training, verification and evaluation have different people.  The same seed gives the same bytes.
"""

import argparse
import os
import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from tools.rehearsal.identity import identity
from tools.rehearsal.layouts import NOTE, VERIFY, refuse_foreign, write_bin, write_ijb, write_training_set
from tools.rehearsal.render import Difficulty, render
from utils.command_line import Parser, make_folder, print_written
from utils.errors import UserError, run
from utils.files import write_text, written_beside
from utils.opencv import cv2


def write_sheet(file: Path, seed: int, size: int, difficulty: Difficulty, people: int = 8, images: int = 10) -> None:
    """Write one picture with a row of ``images`` faces for each of ``people`` people; UserError for another suffix."""
    faces = [identity(seed, number) for number in range(people)]
    rows = [np.hstack([render(who, image, size, difficulty).rgb for image in range(images)]) for who in faces]
    try:
        data = cv2.imencode(file.suffix, np.vstack(rows)[:, :, ::-1])[1].tobytes()
    except cv2.error as error:
        raise UserError(f"cannot write {file}: expected a name that ends in .png or .jpg") from error
    with written_beside(file) as part:
        part.write_bytes(data)
    print_written(file)


def number(kind: type, least: float, most: float = float("inf")):
    """An argparse type: a number of this kind from ``least`` to ``most``."""
    def parse(text: str):
        value = kind(text)
        if not least <= value <= most:
            raise argparse.ArgumentTypeError(f"expected a number from {least} to {most}, found {text}")
        return value
    parse.__name__ = kind.__name__                                   # the word of argparse for a text that is not a number
    return parse


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = Parser(__doc__)
    add = parser.add_argument
    add("--out", type=Path, default=Path("rehearsal"), help="folder for ms1m-retinaface-t1/ and ijb/")
    add("--size", type=number(int, 16, 1024), default=112, help="side of an aligned training image, in pixels")
    add("--identities", type=number(int, 1, VERIFY), default=1000, help="people of the training set")
    add("--images", type=number(float, 2), default=20, help="mean number of images of a person, at least 2 each")
    add("--eval-identities", type=number(int, 6), default=240, help="people of the evaluation set")
    add("--impostors", type=number(int, 1), default=100_000, help="impostor pairs in the 1:1 protocol")
    add("--pairs", type=number(int, 2, VERIFY), default=600, help="pairs of the verification set")
    add("--difficulty", type=number(float, 0, 3), default=1.0,
        help="factor on everything that varies between images of a person; 0: passport photographs")
    add("--seed", type=number(int, 0), default=0, help="another seed gives other people")
    add("--workers", type=number(int, 1), default=os.cpu_count() or 1, help="processes that draw faces")
    add("--sheet", type=Path, metavar="FILE", help="write only a sheet of samples to this .png or .jpg")
    return parser.parse_args()


def main() -> None:
    args = arguments()
    difficulty = Difficulty().scaled(args.difficulty)
    if args.sheet is not None:
        write_sheet(args.sheet, args.seed, args.size, difficulty)
        return

    refuse_foreign(args.out)
    settings = dict(seed=args.seed, size=args.size, difficulty=difficulty, workers=args.workers)
    train = args.out / "ms1m-retinaface-t1"
    make_folder(train, "--out")
    options = {name: value for name, value in vars(args).items() if name not in ("out", "workers", "sheet")}
    write_text(args.out / NOTE, "".join(f"{name} {value}\n" for name, value in options.items()))
    begin = time.monotonic()
    drawn = write_training_set(train, args.identities, args.images, **settings)
    drawn += write_bin(train / "rehearsal.bin", args.pairs, **settings)
    drawn += write_ijb(args.out / "ijb", args.eval_identities, args.impostors, **settings)
    seconds = time.monotonic() - begin
    print(f"{drawn} images in {seconds:.0f} s ({drawn / seconds / args.workers:.0f} images/s per process)")
    print_written(args.out)


if __name__ == "__main__":
    run(main)
