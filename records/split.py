"""Two parts of a training set, for the old model and for the new one: by identity and by image, in label order."""

import sys
from contextlib import ExitStack, suppress
from pathlib import Path

import numpy as np

from records.ordered import Ordered, in_label_order, writing_to
from records.parts import origin_of_parts
from records.recordio import RecordReader, RecordWriter, pack
from utils.errors import UserError
from utils.origin import load_origin

MAX_DIFFERENCE = 0.1        # between the shares of people and of images in a part, before a warning


def plan(labels: np.ndarray, ratio: float) -> dict[str, np.ndarray]:
    """{part: its images, bool [N]} of labels [N] in label order; "30_class", "70_class", "30_data", "70_data" for ratio 0.3.

    round() is Python's, half to even.
    """
    counts = np.bincount(labels)
    first_classes = round(ratio * len(counts))
    old_class = labels < first_classes
    old_images = np.array([max(1, min(round(ratio * int(n)), int(n) - 1)) for n in counts])
    place = np.arange(len(labels)) - np.repeat(np.cumsum(counts) - counts, counts)
    old_data = place < old_images[labels]
    percent = round(100 * ratio)
    return {f"{percent}_class": old_class, f"{100 - percent}_class": ~old_class, f"{percent}_data": old_data,
            f"{100 - percent}_data": ~old_data | (counts[labels] == 1)}


def split(source: Path, ratio: float, out: Path, force: bool = False) -> None:
    """Write the four parts train_part_*.{rec,idx} of ``source`` into the folder ``out``; images are copied byte for byte.

    Each part has a .json with the fingerprint of ``source`` and the ratio.  Parts that are there already and complete are left
    alone; others are replaced with ``force`` only.  ratio: share of the old part, in (0, 1).  UserError if a label is not a
    whole number from 0 up, a part is empty or exists, or the disk is full.
    """
    ordered = in_label_order(source)
    faces, parts = ordered.faces, plan(ordered.labels, ratio)
    for name, members in parts.items():
        if not members.any():
            raise UserError(f"{faces.path}: with --ratio {ratio} train_part_{name} has no image; "
                            f"choose a ratio nearer to 0.5")
    with writing_to(out):
        about = origin_of_parts(faces, ratio, out)
        paths = {name: out / f"train_part_{name}.rec" for name in parts}
        there = [] if force else [name for name, path in paths.items() if is_complete(path, about)]
        write_parts(ordered, {name: members for name, members in parts.items() if name not in there}, out, about)
    warn_of(ordered, parts, ratio)
    for name, members in parts.items():
        print(f"{paths[name]}: {members.sum()} images of {len(np.unique(ordered.labels[members]))} identities"
              f"{' (was there already)' if name in there else ''}")


def is_complete(part: Path, about: dict) -> bool:
    """Whether ``part`` is there as a split that ``about`` describes leaves it; one that was killed may have left it without .idx.

    UserError if it exists and is something else.
    """
    if not part.exists():
        return False
    here, has_index = load_origin(part), part.with_suffix(".idx").exists()
    if about.items() <= here.items():
        with suppress(UserError):
            if not has_index or RecordReader(part).fingerprint() == here.get("records"):
                return has_index
    raise UserError(f"{part} exists and is not known to be a part of this {about['split_from']} with this ratio; give another "
                    f"--out, or --force to replace the parts")


def write_parts(ordered: Ordered, parts: dict[str, np.ndarray], out: Path, about: dict) -> None:
    """Write these parts: {name: their images, bool [N]}."""
    if not parts:
        return
    with ExitStack() as stack:
        writers, shift, written = {}, {}, dict.fromkeys(parts, 0)
        for name, members in parts.items():
            labels = ordered.labels[members]
            images, classes = int(members.sum()), len(np.unique(labels))
            writers[name] = stack.enter_context(RecordWriter(out / f"train_part_{name}",
                                                             about | {"images": images, "classes": classes}))
            shift[name] = labels.min() if name.endswith("class") else 0
            writers[name].write(0, pack([images + 1, classes], b"", 0, 0))
        for place, (_, label, row, image) in enumerate(ordered.records()):
            for name, members in parts.items():
                if members[place]:
                    written[name] += 1
                    row[0] = label - shift[name]
                    writers[name].write(written[name], pack(row, image, written[name], 0))


def warn_of(ordered: Ordered, parts: dict[str, np.ndarray], ratio: float) -> None:
    """Say on stderr what is different from the source, and if the parts by identity have far more or fewer images than asked."""
    path = ordered.faces.path
    if ordered.changed:
        print(f"note: in the parts of {path} {ordered.changed}; {path.name} itself stays as it is", file=sys.stderr)
    for name, members in parts.items():
        if len(np.unique(ordered.labels[members])) == 1:
            print(f"warning: train_part_{name} has images of one person, and a training needs two people: add people, or choose "
                  f"a ratio nearer to 0.5", file=sys.stderr)
    name, members = next(iter(parts.items()))
    share = members.mean()
    if abs(share - ratio) > MAX_DIFFERENCE:
        print(f"warning: train_part_{name} has {100 * share:.0f} % of the images, but {100 * ratio:.0f} % of the people: people "
              f"with many images are at one end of the order, so the two parts differ in more than their people; tools/make_rec "
              f"--shuffle SEED numbers people in a random order", file=sys.stderr)
