"""Write a training set from a folder of people: FOLDER/person/*.jpg -> train.rec, train.idx, property.

    python tools/make_rec/make_rec.py FOLDER --out dataset/mine                                     aligned faces of 112 x 112
    python tools/make_rec/make_rec.py FOLDER --out dataset/mine --resize                            larger aligned faces
    python tools/make_rec/make_rec.py FOLDER --out dataset/mine --align --detector yunet.onnx       photographs
    python tools/make_rec/make_rec.py --from-rec old/train.rec --out dataset/mine                   a record file, sorted by label
    python tools/make_rec/make_rec.py --index old/train.rec                                         write its lost .idx again

People become labels 0, 1, ... in the order of their names, or with --shuffle in a random order.  It also writes identities.txt
(label, person), images.txt (row, label, person, path of each picture), its checksum in train.json and, if something is not used,
left_out.txt (path, reason).
The whole folder is checked first; everything that cannot be used is named at once.  The content of a file decides what it is,
not its ending.  EXIF orientation is applied.  JPEGs of the right size that are upright are copied byte for byte.
The layout is insightface's: header, images, identity records.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from evaluation.detect import aligned
from evaluation.photos import add_options, check_options, read_again, read_people
from records.folders import Picture, Tree
from records.left_out import write_list
from records.lost_index import write_index
from records.ordered import list_images, refuse_existing, write_ordered, writing_to
from records.pictures import encode, upright_jpeg
from records.recordio import RecordWriter, pack
from utils.command_line import Parser, at_least, print_written
from utils.errors import run
from utils.files import write_text


def shuffled(people: dict[str, list[Picture]], seed: int) -> dict[str, list[Picture]]:
    """The people in a random order that depends on ``seed`` and their number alone."""
    names = list(people)
    return {names[k]: people[names[k]] for k in np.random.default_rng(seed).permutation(len(names))}


def face_of(picture: Picture, size: int, align: bool) -> bytes:
    """The JPEG of size x size pixels of a picture; UserError if the file has changed since it was looked at."""
    data, image = read_again(picture)
    return encode(aligned(image, picture.found.landmarks, size)) if align else upright_jpeg(data, image, size)


def write(tree: Tree, people: dict[str, list[Picture]], out: Path, size: int, align: bool) -> None:
    """Write train.{rec,idx}, property and the lists into the folder ``out``; the record file gets its name last."""
    total, rows = len(tree), []
    with RecordWriter(out / "train") as writer, tqdm(total=total, desc="writing", unit=" images", disable=None) as bar:
        writer.write(0, pack([total + 1, total + 1 + len(people)], b"", 0, 0))
        key, ranges = 1, []
        for label, (name, pictures) in enumerate(people.items()):
            ranges.append((key, key + len(pictures)))
            for picture in pictures:
                writer.write(key, pack([label, key], face_of(picture, size, align), key, 0))
                rows.append(f"{key - 1}\t{label}\t{name}\t{picture.path.relative_to(tree.folder)}\n")
                key += 1
                bar.update()
        for span in ranges:
            writer.write(key, pack(span, b"", key, 0))
            key += 1
        write_text(out / "property", f"{len(people)},{size},{size}\n")
        write_text(out / "identities.txt", "".join(f"{label}\t{name}\n" for label, name in enumerate(people)))
        writer.about = list_images(out, ["row\tlabel\tperson\tpath\n", *rows])
    print(f"{out / 'train.rec'}: {total} images of {len(people)} identities")


def from_folder(args: argparse.Namespace) -> None:
    """The training set of a folder of pictures."""
    check_options(args)
    refuse_existing(args.out / "train.rec", args.force)
    tree = read_people(args)
    people = tree.people if args.shuffle is None else shuffled(tree.people, args.shuffle)
    with writing_to(args.out):
        refuse_existing(args.out / "train.rec", args.force)         # another process may have written it meanwhile
        write(tree, people, args.out, args.size, args.align)
    if (listed := write_list(tree, args.out)) is not None:
        print(f"{listed}: {len(tree.left_out)} files and folders that are not used", file=sys.stderr)


def main() -> None:
    parser = Parser(__doc__)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--from-rec", type=Path, metavar="FILE",
                        help="record file in any order and with any labels: written again, sorted by label and numbered from 0")
    source.add_argument("--index", type=Path, metavar="FILE", help="write the lost .idx of this .rec next to it")
    add_options(parser, source)
    parser.add_argument("--shuffle", type=at_least(0, int), metavar="SEED",
                        help="number the people in a random order: a split by identity is then not a split by name")
    args = parser.parse_args()
    if args.index:
        write_index(args.index)
    elif args.out is None:
        parser.error("the following arguments are required: --out")
    elif args.from_rec:
        write_ordered(args.from_rec, args.out, args.force)
    else:
        from_folder(args)
    print_written(args.index.with_suffix(".idx") if args.index else args.out / "train.rec")


if __name__ == "__main__":
    run(main)
