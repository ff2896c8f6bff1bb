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
