"""Write a training set from a folder of people: FOLDER/identity/*.jpg -> train.rec, train.idx, property.

    python tools/make_rec/make_rec.py FOLDER --out dataset/mine [--size 112] [--resize]
    python tools/make_rec/make_rec.py --from-rec old/train.rec --out dataset/mine       sort and renumber a record file
    python tools/make_rec/make_rec.py --index old/train.rec                             write its lost .idx again

Identities become labels 0, 1, ... in sorted order; identities.txt lists them.  Images must be aligned faces of
--size x --size pixels; --resize shrinks larger square ones.  JPEGs of the right size are copied byte for byte.
The layout is insightface's: header, images, identity records.
"""

import argparse
import sys
from pathlib import Path

from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from records.images import decode
from records.lost_index import write_index
from records.ordered import write_ordered
from records.recordio import RecordWriter, pack
from utils.command_line import make_folder
from utils.errors import UserError, run
from utils.files import write_text
from utils.opencv import cv2

SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp"}
JPEG_QUALITY = 95       # of images that are encoded again


def people_of(folder: Path) -> dict[str, list[Path]]:
    """{identity: its images, sorted}; a folder without images is left out, with a warning.

    UserError if there is no folder with images.
    """
    if not folder.is_dir():
        raise UserError(f"no folder {folder}; expected a folder with one folder of images for each person")
    people = {}
    for person in sorted(p for p in folder.iterdir() if p.is_dir()):
        images = sorted(p for p in person.rglob("*") if p.suffix.lower() in SUFFIXES)
        if images:
            people[person.name] = images
        else:
            print(f"warning: {person} has no image: left out", file=sys.stderr)
    if not people:
        raise UserError(f"{folder} has no folders with images; expected {folder}/identity/*.jpg")
    return people


def jpeg_of(path: Path, size: int, resize: bool) -> bytes:
    """The image as a JPEG of size x size pixels; UserError if it is not one or has another size."""
    data = path.read_bytes()
    try:
        image = decode(data, cv2.IMREAD_COLOR_BGR)
    except ValueError as error:
        raise UserError(f"{path} is not an image that OpenCV can decode ({error}); remove or replace it") from error
    right_size = image.shape[:2] == (size, size)
    if right_size and data[:3] == b"\xff\xd8\xff":
        return data
    height, width = image.shape[:2]
    if not right_size and not (resize and height == width > size):
        raise UserError(f"{path} has {width}x{height} pixels, expected an aligned face of {size}x{size}; align it "
                        f"first, or give --resize, which shrinks square images")
    if not right_size:
        image = cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA)
    return cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])[1].tobytes()


def write(people: dict[str, list[Path]], out: Path, size: int, resize: bool) -> None:
    """Write train.{rec,idx}, property and identities.txt into the folder ``out``."""
    make_folder(out, "--out")
    total = sum(map(len, people.values()))
    with RecordWriter(out / "train") as writer, tqdm(total=total, unit=" images", disable=None) as bar:
        writer.write(0, pack([total + 1, total + 1 + len(people)], b"", 0, 0))
        key, ranges = 1, []
        for label, images in enumerate(people.values()):
            ranges.append((key, key + len(images)))
            for path in images:
                writer.write(key, pack([label, key], jpeg_of(path, size, resize), key, 0))
                key += 1
                bar.update()
        for span in ranges:
            writer.write(key, pack(span, b"", key, 0))
            key += 1
    write_text(out / "property", f"{len(people)},{size},{size}\n")
    write_text(out / "identities.txt", "".join(f"{label}\t{name}\n" for label, name in enumerate(people)))
    print(f"{out / 'train.rec'}: {total} images of {len(people)} identities")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0],
                                     formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("folder", type=Path, nargs="?", help="folder with one folder of images for each person")
    source.add_argument("--from-rec", type=Path, metavar="FILE",
                        help="record file in any order and with any labels: written again, sorted by label and numbered from 0")
    source.add_argument("--index", type=Path, metavar="FILE", help="write the lost .idx of this .rec next to it")
    parser.add_argument("--out", type=Path, help="folder for the record files")
    parser.add_argument("--force", action="store_true", help="with --from-rec: replace a train.rec that is there already")
    parser.add_argument("--size", type=int, default=112, help="side of an image, in pixels")
    parser.add_argument("--resize", action="store_true", help="shrink larger square images (they must be aligned)")
    args = parser.parse_args()
    if args.index:
        write_index(args.index)
        return
    if args.out is None:
        parser.error("the following arguments are required: --out")
    if args.from_rec:
        write_ordered(args.from_rec, args.out, args.force)
        return
    write(people_of(args.folder), args.out, args.size, args.resize)


if __name__ == "__main__":
    run(main)
