"""The old part of a training set and the rest, by identity and by image."""

from contextlib import ExitStack
from pathlib import Path

import numpy as np
from tqdm import tqdm

from records.faces import FaceRecords
from records.recordio import RecordWriter, pack
from utils.command_line import make_folder
from utils.errors import UserError


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
