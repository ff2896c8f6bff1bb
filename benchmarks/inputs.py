"""Random records, crops, embeddings and protocols that several benchmarks use."""

from pathlib import Path

import numpy as np

from evaluation.align import TEMPLATE
from evaluation.protocol import Images, Pairs, People, Search
from records.recordio import RecordWriter, pack
from utils.opencv import cv2

CROPS = 256
IMAGES, PAIRS, GENUINE, GALLERIES, PROBES = 469_375, 15_658_489, 19_557, (1_772, 1_759), 19_593         # IJB-C


def draw_records(prefix: Path, images: int) -> None:
    """Smooth colour fields with a little noise: they compress like aligned faces."""
    draw = np.random.default_rng(0)
    jpegs = []
    for _ in range(256):
        field = cv2.resize(draw.uniform(0, 255, (9, 9, 3)).astype(np.float32), (112, 112), interpolation=cv2.INTER_CUBIC)
        noisy = np.clip(field + draw.normal(0, 4, field.shape), 0, 255).astype(np.uint8)
        jpegs.append(cv2.imencode(".jpg", noisy, [cv2.IMWRITE_JPEG_QUALITY, 90])[1].tobytes())
    with RecordWriter(prefix) as writer:
        writer.write(0, pack([images + 1, 1], b"", 0, 0))
        for key in range(1, images + 1):
            writer.write(key, pack([0, key], jpegs[key % len(jpegs)], key, 0))


def draw_crops(folder: Path, images: int) -> Images:
    """Loose crops of 200x240 pixels with the face in the middle; CROPS files, made if they are not there, are used repeatedly."""
    draw = np.random.default_rng(0)
    folder.mkdir(exist_ok=True)
    for k in range(0 if (folder / f"{CROPS - 1}.jpg").is_file() else min(CROPS, images)):
        field = cv2.resize(draw.uniform(0, 255, (12, 10, 3)).astype(np.float32), (200, 240), interpolation=cv2.INTER_CUBIC)
        cv2.imwrite(f"{folder}/{k}.jpg", np.clip(field + draw.normal(0, 4, field.shape), 0, 255).astype(np.uint8))
    names = np.array([f"{k % CROPS}.jpg" for k in range(images)])
    landmarks = (TEMPLATE + [44, 64] + draw.normal(0, 3, (images, 5, 2))).astype(np.float32)
    each = np.arange(images)
    return Images(folder, names, landmarks, np.ones(images, np.float32), each.astype(np.int32), each, each, "drawn")


def random_protocol(draw: np.random.Generator, share: float) -> tuple[Images, Pairs, Search]:
    """A random protocol with ``share`` of IJB-C's counts."""
    n, p, genuine, probes = (int(share * count) for count in (IMAGES, PAIRS, GENUINE, PROBES))
    first, second = (max(2, int(share * count)) for count in GALLERIES)
    entries = first + second
    templates = entries + probes
    owner = np.concatenate([np.arange(templates), draw.integers(0, templates, n - templates)]).astype(np.int32)
    subjects = np.concatenate([np.arange(entries), draw.integers(0, entries, probes)])
    images = Images(Path(), np.arange(n).astype(str), np.zeros((n, 5, 2), np.float32), draw.random(n, np.float32), owner,
                    draw.integers(0, n // 3, n), np.arange(templates), "")
    verify = draw.integers(entries, templates, p).astype(np.int32)
    enrol = draw.integers(0, entries, p).astype(np.int32)
    enrol[:genuine] = subjects[verify[:genuine]]
    rows = np.arange(templates, dtype=np.int32)
    galleries = {"G1": People(rows[:first], subjects[:first]), "G2": People(rows[first:entries], subjects[first:entries])}
    probe_list = People(rows[entries:], subjects[entries:])
    return images, Pairs(enrol, verify, subjects[enrol] == subjects[verify]), Search(galleries, probe_list)


def random_rows(file: Path, draw: np.random.Generator, *shape: int) -> np.ndarray:
    """Normal float32 numbers of this shape, memory-mapped; the last number of ``shape``: dimensions of a row."""
    out = np.lib.format.open_memmap(file, "w+", np.float32, shape)
    rows = out.reshape(-1, shape[-1])
    for start in range(0, len(rows), 65_536):
        rows[start:start + 65_536] = draw.standard_normal(rows[start:start + 65_536].shape, np.float32)
    out.flush()
    return np.load(file, mmap_mode="r")
