"""Photographs of people as the input of make_rec and make_ijb: their common options, and the people that can be used."""

import argparse
import sys
from pathlib import Path

import numpy as np

from evaluation.align import target
from evaluation.detect import CHOICES, Detector, Face
from records.folders import ALBUM, Check, Picture, Rejected, Tree, alike, checksum, read_tree, shown
from records.left_out import EXAMPLES, refuse_bad
from records.pictures import pixels
from utils.command_line import at_least
from utils.errors import UserError

WRONG_SIZE = "picture of another size"


def add_options(parser: argparse.ArgumentParser, sources=None) -> None:
    """The options of a folder of photographs.  sources: argparse's group of FOLDER and other sources, of which one is given."""
    add = parser.add_argument
    (sources or parser).add_argument("folder", type=Path, nargs="?" if sources else None,
                                     help="folder with one folder of pictures for each person")
    add("--out", type=Path, required=sources is None, help="folder for the results, outside of the photographs")
    add("--size", type=at_least(16, int), default=112, help="side of an aligned face, in pixels")
    add("--resize", action="store_true", help="shrink larger square pictures (they must be aligned)")
    add("--align", action="store_true", help="the pictures are photographs: find the face in each and align it; needs --detector")
    add("--detector", type=Path, metavar="FILE.onnx", help="model file of OpenCV's FaceDetectorYN (YuNet); none is shipped")
    add("--face", choices=CHOICES, default=CHOICES[0], help="of several faces: the largest, or the nearest to the centre")
    add("--min-score", type=float, default=0.7, help="smallest score of the detector that counts as a face, 0 to 1")
    add("--albums", action="store_true", help="pictures in folders inside a person's folder are that person's, too")
    add("--skip-bad", action="store_true", help="leave out what cannot be used, and list it, instead of ending with an error")
    add("--force", action="store_true", help="replace the results of an earlier run in --out")


def check_options(args: argparse.Namespace) -> None:
    """UserError for options that do not fit together, and for results inside the folder of photographs."""
    if args.align != (args.detector is not None):
        raise UserError("--align and --detector FILE.onnx belong together; give both for photographs, neither for aligned faces")
    if args.align and args.resize:
        raise UserError("--align makes faces of --size pixels from pictures of any size; leave out --resize")
    if args.out.resolve().is_relative_to(args.folder.resolve()):
        raise UserError(f"--out {args.out} is inside of the folder of photographs {args.folder}, and would be taken for a person "
                        f"the next time; give a folder outside of it")


def read_people(args: argparse.Namespace) -> Tree:
    """The people in ``args.folder`` with their pictures.  Picture.found is a Face: of aligned faces the template's landmarks.

    Prints what is left out.  UserError if something must be decided by the user, or if nobody is left.
    """
    check = aligned_check(args.size, args.resize)
    if args.align:
        check = detector_check(Detector(args.detector, args.face, args.min_score))
    tree = read_tree(args.folder, check, args.albums, threads=1 if args.align else None)
    first = next((item.path for item in tree.left_out if item.kind == ALBUM), args.folder)
    refuse_bad(tree, args.out, args.skip_bad, {
        WRONG_SIZE: "give --size if all faces have that size, --resize if they are aligned and larger, --align --detector "
                    "FILE.onnx if they are photographs",
        ALBUM: f"give --albums if all pictures below a person's folder are of that person, or give such a folder as FOLDER "
               f"({shown(first)}) if the folders in it are people"})
    if groups := alike(tree.people):
        names = "; ".join(shown(" and ".join(group)) for group in groups[:EXAMPLES]) + "; ..." * (len(groups) > EXAMPLES)
        print(f"warning: names of people that differ only in upper and lower case, spaces or accents: {names}; they count as "
              f"different people: if they are one, put the pictures into one folder", file=sys.stderr)
    return tree


def read_again(picture: Picture) -> tuple[bytes, np.ndarray]:
    """(bytes, pixels BGR) of a picture; UserError if its file has changed since it was looked at."""
    try:
        data = picture.path.read_bytes()
        if checksum(data) == picture.checksum:
            return data, pixels(data)
    except OSError as error:
        raise UserError(f"{shown(picture.path)} could be read a moment ago, now it cannot ({error.strerror}); start "
                        f"again") from error
    raise UserError(f"{shown(picture.path)} has changed since it was looked at; start again")


def aligned_check(size: int, resize: bool) -> Check:
    """Refuses pictures that are not aligned faces of ``size`` pixels; ``resize``: or larger squares."""
    face = Face(target(size), 1.0)

    def check(_, image: np.ndarray) -> Face:
        height, width = image.shape[:2]
        if (height, width) != (size, size) and not (resize and height == width > size):
            raise Rejected(WRONG_SIZE, f"has {width}x{height} pixels, expected an aligned face of {size}x{size}", True)
        return face

    return check


def detector_check(detector: Detector) -> Check:
    """Finds the face of each photograph; one without a face is left out."""
    def check(_, image: np.ndarray) -> Face:
        face = detector(image)
        if face is None:
            raise Rejected("no face found", "", False)
        return face

    return check
