"""Two parts of a training set, for the old model and for the new one: by identity and by image, in label order."""

import sys
from contextlib import ExitStack
from pathlib import Path

import numpy as np
from tqdm import tqdm

from records.faces import FaceRecords
from records.recordio import RecordWriter, pack
from utils.command_line import make_folder
from utils.errors import UserError

MAX_DIFFERENCE = 0.1        # between the shares of people and of images in a part, before a warning


def checked_labels(faces: FaceRecords) -> np.ndarray:
    """The labels, int64 [N]; UserError unless they are 0, 0, ..., 1, ..., C - 1 in file order."""
    labels = faces.labels()
    steps = np.diff(labels, prepend=-1 if labels[0] == 0 else labels[0])
    wrong = np.flatnonzero((steps < 0) | (steps > 1))
    if labels[0] != 0 or len(wrong):
        row = wrong[0] if labels[0] == 0 else 0
        place = f"follows label {labels[row - 1]}" if row else "is the first"
        raise UserError(f"{faces.path}: label {labels[row]} of record {faces.keys[row]} {place}; expected labels from 0 up "
                        f"without a gap, in file order: write the file again with tools/make_rec")
    if labels[-1] + 1 != faces.num_classes:
        raise UserError(f"{faces.path}: its header promises {faces.num_classes} classes, its images have "
                        f"{labels[-1] + 1}; write the file again with tools/make_rec")
    return labels


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


def warn_of_shares(parts: dict[str, np.ndarray], ratio: float) -> None:
    """Print a warning if the old part of the split by identity has a share of the images that is far from ``ratio``."""
    name = f"{round(100 * ratio)}_class"
    share = parts[name].mean()
    if abs(share - ratio) > MAX_DIFFERENCE:
        print(f"warning: train_part_{name} has {100 * share:.0f} % of the images, but {100 * ratio:.0f} % of the people: people "
              f"with many images are at one end of the order, so the two parts differ in more than their people; tools/make_rec "
              f"--shuffle SEED numbers people in a random order", file=sys.stderr)


def split(faces: FaceRecords, ratio: float, out: Path) -> None:
    """Write the four parts train_part_*.{rec,idx} of ``faces`` into the folder ``out``; images are copied byte for byte.

    ratio: share of the old part, in (0, 1).  UserError if the labels have gaps, a part is empty, or the disk is full.
    """
    labels = checked_labels(faces)
    parts = plan(labels, ratio)
    for name, members in parts.items():
        if not members.any():
            raise UserError(f"{faces.path}: with --ratio {ratio} train_part_{name} has no image; "
                            f"choose a ratio nearer to 0.5")
    warn_of_shares(parts, ratio)
    make_folder(out, "--out")
    with ExitStack() as stack:
        writers, shift, written = {}, {}, dict.fromkeys(parts, 0)
        for name, members in parts.items():
            writers[name] = stack.enter_context(RecordWriter(out / f"train_part_{name}"))
            part_labels = labels[members]
            shift[name] = part_labels.min() if name.endswith("class") else 0
            writers[name].write(0, pack([members.sum() + 1, part_labels.max() + 1 - shift[name]], b"", 0, 0))
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
