"""Writes an evaluation set in insightface's IJB-C layout, which protocol.py reads (docs/your-own-data.md: its columns)."""

import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from evaluation.protocol import GALLERIES
from utils.files import disk_errors


@dataclass
class Protocol:
    """Row i of ``templates``, ``media``, ``landmarks`` and ``scores`` belongs to the image file <i + 1>.jpg."""

    templates: list[int] = field(default_factory=list)
    media: list[int] = field(default_factory=list)                  # photograph or video of an image
    landmarks: list[np.ndarray] = field(default_factory=list)       # float [5, 2], x and y in pixels of the image file
    scores: list[float] = field(default_factory=list)               # of the face detector
    pairs: Iterable[tuple[int, int, int]] = ()                      # enrolled template, verified template, 1 = same person
    galleries: tuple[Iterable[tuple[int, int]], Iterable[tuple[int, int]]] = ((), ())       # (template, subject)
    probes: Iterable[tuple[int, int]] = ()

    def add_image(self, template: int, medium: int, landmarks: np.ndarray, score: float) -> str:
        """Note an image; returns the name of its file."""
        self.templates.append(template)
        self.media.append(medium)
        self.landmarks.append(landmarks)
        self.scores.append(score)
        return f"{len(self.templates)}.jpg"


@contextmanager
def new_subset(folder: Path, subset: str) -> Iterator[Path]:
    """Yield a folder with loose_crop/ and meta/; when the block ends without an error it becomes <folder>/<subset>.

    It replaces a folder of that name; after an error that one is as it was.
    """
    target, part = folder / subset, folder / f"{subset}.part"
    shutil.rmtree(part, ignore_errors=True)
    try:
        with disk_errors(target):
            for name in ("loose_crop", "meta"):
                (part / name).mkdir(parents=True)
            yield part
            shutil.rmtree(target, ignore_errors=True)
            os.replace(part, target)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def write_meta(meta: Path, subset: str, protocol: Protocol) -> None:
    """Write the six text files of the protocol into the folder ``meta``."""
    prefix = subset.lower()
    faces = zip(protocol.landmarks, protocol.scores, strict=True)
    tables: dict[str, Iterable[str]] = {
        "face_tid_mid.txt": (f"{i}.jpg {template} {medium}"
                             for i, (template, medium) in enumerate(zip(protocol.templates, protocol.media, strict=True), 1)),
        "name_5pts_score.txt": (f"{i}.jpg {' '.join(f'{v:.3f}' for v in np.ravel(points))} {score:.3f}"
                                for i, (points, score) in enumerate(faces, 1)),
        "template_pair_label.txt": (f"{a} {b} {same}" for a, b, same in protocol.pairs)}
    lists = dict(zip((f"1N_gallery_{name}.csv" for name in GALLERIES[subset]), protocol.galleries, strict=True))
    for name, people in (lists | {"1N_probe_mixed.csv": protocol.probes}).items():
        tables[name] = ("TEMPLATE_ID,SUBJECT_ID", *(f"{template},{subject}" for template, subject in people))
    for name, rows in tables.items():
        with open(meta / f"{prefix}_{name}", "w") as file:
            file.writelines(f"{row}\n" for row in rows)
