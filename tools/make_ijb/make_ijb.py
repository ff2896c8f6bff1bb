"""Write an evaluation set in IJB-C's layout from a folder of people: FOLDER/person/*.jpg -> OUT/IJBC/{loose_crop,meta}.

    python tools/make_ijb/make_ijb.py FOLDER --out dataset/mine_ijb                                 aligned faces of 112 x 112
    python tools/make_ijb/make_ijb.py FOLDER --out dataset/mine_ijb --align --detector yunet.onnx   photographs

The people must be others than those of the training set.  Each person's first --enrol pictures are one template; each further
picture is a template of its own.  The first template is the person's entry in gallery G1 or G2, all others are probes.  A share
--non-mated of the people is in no gallery.  1:1 compares first templates with the others of the same person, and with --impostors
templates of other people.  Everything that is drawn depends on --seed alone.
It also writes OUT/images.txt (number, template, subject, person, path of each picture) and, if something is left out,
OUT/left_out.txt (path, reason).
"""

import argparse
import sys
from pathlib import Path

import numpy as np
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from evaluation.detect import loose_crop
from evaluation.draw_protocol import assign, draw_pairs, refuse_too_few
from evaluation.evaluation_set import read_evaluation
from evaluation.ijb_files import Protocol, new_subset, write_meta
from evaluation.photos import add_options, check_options, read_again, read_people
from records.folders import Tree
from records.left_out import write_list
from records.pictures import encode, upright_jpeg
from utils.command_line import Parser, at_least, make_folder, print_written
from utils.errors import UserError, run
from utils.files import write_text
from utils.locks import hold_folder

SUBSET = "IJBC"
SECONDS_FOR_LOCK = 5        # that a run waits for another that is about to end


def share(text: str) -> float:
    """An argparse type: a number above 0 and below 1."""
    value = float(text)
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"expected a number above 0 and below 1, found {text}")
    return value


def arguments() -> argparse.Namespace:
    parser = Parser(__doc__)
    add_options(parser)
    add = parser.add_argument
    add("--enrol", type=at_least(1, int), default=1, help="pictures of a person's first template")
    add("--non-mated", type=share, default=0.3, help="share of the people who are in no gallery")
    add("--impostors", type=at_least(1, int), default=300_000, help="impostor pairs of the 1:1 protocol, at most")
    add("--seed", type=at_least(0, int), default=0, help="seed of what is drawn: non-mated people, galleries, impostor pairs")
    add("--far", type=share, default=0.1, help="smallest false accept rate that the set must support")
    add("--fpir", type=share, default=0.1, help="smallest false positive identification rate that the set must support")
    return parser.parse_args()


def protocol_of(tree: Tree, args: argparse.Namespace) -> tuple[Protocol, list[list[int]]]:
    """(pairs, galleries and probes of the people, without images; for each person, the template of each picture)."""
    rng = np.random.default_rng(args.seed)
    roles = assign(np.array([len(pictures) for pictures in tree.people.values()]), args.enrol, args.non_mated, rng)
    pairs = draw_pairs(roles, args.impostors, rng)
    refuse_too_few(roles, pairs, args.far, args.fpir)
    return Protocol(pairs=pairs, galleries=roles.galleries(), probes=[(t, s) for t, s in roles.probes().tolist()]), roles.images


def write_images(tree: Tree, crops: Path, protocol: Protocol, templates: list[list[int]], align: bool, size: int) -> list[str]:
    """Write the image files and note them in ``protocol``; returns the rows of images.txt."""
    rows = ["number\ttemplate\tsubject\tperson\tpath"]
    with tqdm(total=len(tree), desc="writing", unit=" images", disable=None) as bar:
        for subject, (name, pictures) in enumerate(tree.people.items()):
            for picture, template in zip(pictures, templates[subject], strict=True):
                data, image = read_again(picture)
                landmarks = picture.found.landmarks
                if align:
                    image, landmarks = loose_crop(image, landmarks)
                number = len(rows)
                file = protocol.add_image(template, number, landmarks, picture.found.score)
                (crops / file).write_bytes(encode(image) if align else upright_jpeg(data, image, size))
                rows.append(f"{number}\t{template}\t{subject}\t{name}\t{picture.path.relative_to(tree.folder)}")
                bar.update()
    return rows


def refuse_existing(args: argparse.Namespace) -> None:
    if (args.out / SUBSET).exists() and not args.force:
        raise UserError(f"{args.out / SUBSET} exists; give another --out, or --force to replace it")


def report(out: Path) -> None:
    """Read what was written as the evaluator does, and print its size and the rates that it supports."""
    data = read_evaluation(out, SUBSET)
    print(f"{(out / SUBSET).absolute()}: {len(data.images)} templates; {data.pairs}; {data.search}")
    print(f"figures that it supports: {' '.join(data.metrics())}")
    print(f"figures that a verdict counts (30 errors and 10 people or more): {' '.join(data.reliable()) or 'none'}")
    for note in data.notes():
        print(f"note: {note}.")


def main() -> None:
    args = arguments()
    check_options(args)
    refuse_existing(args)
    tree = read_people(args)
    protocol, templates = protocol_of(tree, args)
    make_folder(args.out, "--out")
    with hold_folder(args.out, f"another process writes to {args.out}; wait until it has ended, or give another --out",
                     SECONDS_FOR_LOCK):
        refuse_existing(args)                       # another process may have written it meanwhile
        with new_subset(args.out, SUBSET) as part:
            rows = write_images(tree, part / "loose_crop", protocol, templates, args.align, args.size)
            write_meta(part / "meta", SUBSET, protocol)
            (args.out / "images.txt").unlink(missing_ok=True)       # after a stop no list, instead of that of other images
        write_text(args.out / "images.txt", "".join(f"{row}\n" for row in rows))
    if (listed := write_list(tree, args.out)) is not None:
        print(f"{listed}: {len(tree.left_out)} files and folders that are not used", file=sys.stderr)
    report(args.out)
    print_written(args.out / SUBSET)


if __name__ == "__main__":
    run(main)
