"""A tiny data set in MS1MV3's layout: coloured squares, one colour per class."""

from pathlib import Path

import cv2
import numpy as np

from records.recordio import RecordWriter, pack


def jpeg(label: int, number: int, size: int) -> bytes:
    draw = np.random.default_rng([label, number])
    image = draw.integers(0, 60, (size, size, 3)) + np.random.default_rng(label).integers(0, 190, 3)
    return cv2.imencode(".jpg", image.astype(np.uint8), [cv2.IMWRITE_JPEG_QUALITY, 95])[1].tobytes()


def write_records(prefix: Path, counts: list[int], size: int = 16) -> list[int]:
    """<prefix>.rec/.idx with header; counts[c] images of class c; the labels in record order."""
    labels = [label for label, count in enumerate(counts) for _ in range(count)]
    prefix.parent.mkdir(parents=True, exist_ok=True)
    with RecordWriter(prefix) as writer:
        writer.write(0, pack([len(labels) + 1, len(counts)], b"", 0, 0))
        for key, label in enumerate(labels, 1):
            writer.write(key, pack([label, key], jpeg(label, key, size), key, 0))
    return labels


LANDMARKS = "38.3 51.7 73.5 51.5 56.0 71.7 41.5 92.4 70.7 92.2"


def write_ijb(folder: Path, subjects: int = 6, templates: int = 3, images: int = 2) -> None:
    """IJBC below ``folder``: every subject has templates of images; the first one is its gallery entry."""
    meta, crops = folder / "IJBC/meta", folder / "IJBC/loose_crop"
    meta.mkdir(parents=True)
    crops.mkdir()
    media, points, owner = [], [], {}
    for subject in range(subjects):
        for _ in range(templates):
            template = len(owner) + 1
            owner[template] = subject
            for _ in range(images):
                number = len(media) + 1
                (crops / f"{number}.jpg").write_bytes(jpeg(subject, number, 112))
                media.append(f"{number}.jpg {template} {number}")
                points.append(f"{number}.jpg {LANDMARKS} 0.9")
    pairs = [f"{a} {b} {int(owner[a] == owner[b])}" for a in owner for b in owner if a < b]
    (meta / "ijbc_face_tid_mid.txt").write_text("\n".join(media) + "\n")
    (meta / "ijbc_name_5pts_score.txt").write_text("\n".join(points) + "\n")
    (meta / "ijbc_template_pair_label.txt").write_text("\n".join(pairs) + "\n")
    first = {subject: min(t for t in owner if owner[t] == subject) for subject in range(subjects)}
    sides = {"gallery_G1": [first[s] for s in range(subjects // 2)],
             "gallery_G2": [first[s] for s in range(subjects // 2, subjects)],
             "probe_mixed": [t for t in owner if t not in first.values()]}
    for name, members in sides.items():
        rows = "".join(f"{t},{owner[t]}\n" for t in members)
        (meta / f"ijbc_1N_{name}.csv").write_text("TEMPLATE_ID,SUBJECT_ID\n" + rows)
