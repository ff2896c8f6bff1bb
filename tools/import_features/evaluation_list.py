"""Which picture each image of an evaluation set is, and whose, so that vectors with ids can be brought into its order."""

from pathlib import Path

import numpy as np

from evaluation.protocol import Images, read_images
from old_model.vectors import Match, match
from utils.errors import UserError
from utils.files import read_lines

HEADER = "number\ttemplate\tsubject\tperson\tpath"      # first line of make_ijb's images.txt


def evaluation_list(data: Path, subset: str, ids: list[str], source: Path) -> tuple[list[str], np.ndarray, Match]:
    """(names of the images in the order of the landmark file, a person of each int64 [N], the vector of each).

    ids, source: of the vectors.  An id is compared with the names of the image files and, if make_ijb wrote ``data``, with the
    paths of the pictures that they were made from.  UserError if it could be either, or if nothing fits.
    """
    images = read_images(data, subset)
    lists = {"image files": [str(name) for name in images.names]}
    people = images.templates.astype(np.int64)              # without images.txt: images of one template show one person
    if (data / "images.txt").is_file():
        lists["pictures"], people = pictures_of(images, data / "images.txt")
    found, problems = {}, []
    for what, names in lists.items():
        try:
            found[what] = match(ids, names, source)
        except UserError as error:
            problems.append(str(error))
    if not found:
        raise UserError(problems[-1])
    counts = {what: int((one.rows >= 0).sum()) for what, one in found.items()}
    best = max(counts, key=lambda what: counts[what])
    if "pictures" in found and not found["pictures"].key.startswith("the file name"):
        best = "pictures"                               # the ids name folders, too
    elif len(found) > 1 and min(counts.values()) > len(images) / 2:
        raise UserError(f"the ids of {source} can be names of the image files in loose_crop and of the pictures in "
                        f"{data / 'images.txt'}; export the pictures' paths (person/picture.jpg) as ids")
    return lists[best], people, found[best]


def pictures_of(images: Images, file: Path) -> tuple[list[str], np.ndarray]:
    """(path of each image's picture, its subject int64 [N]) from images.txt; UserError if it lists other images."""
    lines = read_lines(file)
    rows = {row[0]: row for line in lines[lines[:1] == [HEADER]:] if len(row := line.split("\t")) == 5 and row[2].isdecimal()}
    numbers = [Path(str(name)).stem for name in images.names]
    if len(rows) != len(numbers) or any(rows.get(number, ["", ""])[1] != str(template)
                                        for number, template in zip(numbers, images.template_ids[images.templates], strict=True)):
        raise UserError(f"{file} lists {len(rows)} images, the landmark file {len(numbers)}, or others; make both again with "
                        f"tools/make_ijb")
    return [rows[number][4] for number in numbers], np.array([int(rows[number][2]) for number in numbers])
