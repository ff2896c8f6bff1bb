"""Rows on the record file (counts, labels, images) and on the verification sets."""

import logging
import os
from collections import Counter
from functools import partial
from multiprocessing import Pool
from pathlib import Path

import numpy as np
from tqdm import tqdm

from engine.prepare import check_updates, open_dataset
from engine.settings import targets_of
from old_model.feature_rows import COMMAND, FeatureRows, is_of_features
from old_model.order import MISPLACED, order_of_rows
from records.bins import load_bin
from records.classes import images_of_classes, remarks
from records.faces import CHUNK, MAX_BAD_IN_A_ROW, FaceRecords, Faces
from records.facts import Facts
from records.loader import MAX_BAD_SHARE, ShuffledBatches
from records.parts import is_part, refuse_other_parts, source_of, split_again
from tools.check.report import OK, WARNING, WRONG, Report
from utils.errors import UserError
from utils.opencv import cv2
from utils.origin import check_whole, load_origin
from utils.settings import Settings

ROWS_WITHOUT_ALL = 2000         # images that are decoded, and rows that are searched for NaN, without --all
EXAMPLES = 3                    # corrupt records that a row names
IMAGES_PER_BLOCK = 256          # of one process at a time
MAX_PROCESSES = 16
OF_THIS_PROCESS: dict[str, FaceRecords] = {}        # set in each process that decodes


def look_at_records(cfg: Settings, ranks: int, every: bool, report: Report) -> tuple[Faces, Facts] | None:
    """Rows on counts, labels and images of the training set; the set and its counts, None if it cannot be opened.

    every: decode every image instead of a sample.
    """
    opened = report.attempt("records", lambda: open_dataset(cfg, logging.getLogger("bct")))
    if opened is None:
        return None
    faces, data = opened
    path = faces.path if isinstance(faces, FaceRecords | FeatureRows) else cfg.rec
    report.add("records", f"{path}: {data.images:,} images, {data.classes:,} classes")
    report.row("step", lambda: look_at_steps(cfg, data, ranks))
    if isinstance(faces, FaceRecords):
        if is_part(faces.path):
            report.row("split", lambda: look_at_split(faces.path))
        report.row("labels", lambda: look_at_labels(faces))
        if faces.bad_records == "skip" or faces.right_labels().all():
            look_at_classes(faces, report)
        report.row("images", lambda: look_at_images(faces, every))
    if isinstance(faces, FeatureRows):
        look_at_classes(faces, report)
        report.row("features", lambda: look_at_features(faces, every))
    return faces, data


def look_at_split(part: Path) -> tuple[str, str]:
    """From which train.rec this part is; UserError if that is not today's."""
    refuse_other_parts([part])
    about = source_of(part)
    if not about:
        text = f"no file {part.with_suffix('.json').name}: it is not known from which train.rec this part is"
        if not part.with_name("train.rec").is_file():
            return text, OK
        return f"{text}; if you have replaced train.rec since, {split_again(part, about)}", WARNING
    return f"from {about['split_from']} with {about['source_images']:,} images, ratio {about['ratio']:g}", OK


def look_at_steps(cfg: Settings, data: Facts, ranks: int) -> tuple[str, str]:
    """Steps of an epoch; UserError if the training has none, or ends before its first update."""
    steps = len(ShuffledBatches(data.images, cfg.batch_size, 0, ranks, cfg.seed))
    check_updates(cfg, steps)
    return f"{ranks} x {cfg.batch_size} images, {steps:,} steps an epoch", OK


def look_at_labels(faces: FaceRecords) -> tuple[str, str]:
    """Labels that are not a class.  With bad_records = "skip" a corrupt record has the label NaN."""
    labels, right = faces.label_values(), faces.right_labels()
    if not right.all():
        wrong = np.flatnonzero(~right)
        examples = ", ".join(f"record {faces.keys[i]} has {labels[i]:g}" if np.isfinite(labels[i]) else
                             f"record {faces.keys[i]} cannot be read" for i in wrong[:EXAMPLES])
        return (f"{right.sum():,} of {len(faces):,} are whole numbers from 0 to {faces.num_classes} - 1; {examples}: correct "
                f"config.num_classes or make the file again", verdict_on_corrupt(faces, wrong, len(labels)))
    return f"all {len(labels):,} are whole numbers from 0 to {faces.num_classes} - 1", OK


def look_at_features(faces: FeatureRows, every: bool) -> tuple[str, str]:
    """The features of a training on features: checksum, rows without a direction, and whether they belong to their labels."""
    check_whole(faces.path, COMMAND, whole=True)
    sample = np.arange(len(faces)) if every else spread(len(faces))
    for block in np.array_split(sample, -(-len(sample) // CHUNK)):
        faces.fill(np.empty((len(block), *faces.shape), np.float32), block)
    order = order_of_rows(faces.rows, faces.classes)
    text = f"{len(sample):,} of {len(faces):,} rows of {faces.shape[0]} dimensions looked at; {order}"
    if order.misplaced:
        return f"{order.misplaced} {MISPLACED} ({text})", WARNING
    if "sha256" not in load_origin(faces.path):
        return f"{text}; no checksum next to {faces.path.name}: it may be corrupt", WARNING
    return text, OK


def look_at_classes(faces: Faces, report: Report) -> None:
    """Images per class, and a row for each warning of the training; a training on one identity is refused."""
    counts = report.attempt("classes", lambda: images_of_classes(faces))
    if counts is not None:
        for sentence in remarks(faces, counts):
            report.add("classes", sentence, WARNING)
        report.add("classes", f"images per class: {counts.min()} to {counts.max()}, median {np.median(counts):g}")


def verdict_on_corrupt(faces: FaceRecords, corrupt: np.ndarray, count: int) -> str:
    """Whether the training stands the images ``corrupt`` (their numbers) among the ``count`` that were looked at.

    It replaces them if bad_records = "skip", up to a share of what a rank has read, which by chance may be twice the share of the
    file, and not more than MAX_BAD_IN_A_ROW - 1 in a row.
    """
    corrupt = np.sort(corrupt)
    limit = MAX_BAD_IN_A_ROW
    in_a_row = len(corrupt) >= limit and (corrupt[limit - 1:] - corrupt[:1 - limit] < limit).any()
    return WARNING if faces.bad_records == "skip" and len(corrupt) <= MAX_BAD_SHARE * count / 2 and not in_a_row else WRONG


def look_at_images(faces: FaceRecords, every: bool) -> tuple[str, str]:
    """Decode images: a sample in one process, all of them in several."""
    rows = np.arange(len(faces)) if every else spread(len(faces))
    blocks = np.array_split(rows, -(-len(rows) // IMAGES_PER_BLOCK))
    processes = min(len(os.sched_getaffinity(0)), MAX_PROCESSES) if every else 1
    sizes: Counter[tuple[int, int]] = Counter()
    corrupt: dict[int, str] = {}
    with Pool(processes, begin_decoding, (faces,)) as pool, tqdm(total=len(rows), desc="images", unit=" images", delay=1,
                                                                disable=None) as bar:
        for block_sizes, block_corrupt in pool.imap(decode, blocks):
            bar.update(block_sizes.total() + len(block_corrupt))
            sizes += block_sizes
            corrupt |= block_corrupt
    if corrupt:
        examples, verdict = list(corrupt.values())[:EXAMPLES], verdict_on_corrupt(faces, np.array(list(corrupt)), len(rows))
        return f"{len(corrupt):,} of {len(rows):,} cannot be read: {'; '.join(examples)}", verdict
    text, size = f"{len(rows):,} of {len(faces):,} decoded", faces.image_size
    other = sizes.total() - sizes[size, size]
    return (f"{text}; {other:,} are not {size}x{size} and are resized, which takes time", WARNING) if other else (text, OK)


def begin_decoding(faces: FaceRecords) -> None:
    """Called once in each process: the index of a large file has 100 MB, too much to send with each block."""
    cv2.setNumThreads(0)
    OF_THIS_PROCESS["faces"] = faces


def decode(rows: np.ndarray) -> tuple[Counter, dict[int, str]]:
    """(number of images by (height, width), {image: what is wrong with it}) of the images ``rows``."""
    sizes: Counter[tuple[int, int]] = Counter()
    corrupt = {}
    for i in rows.tolist():
        try:
            sizes[OF_THIS_PROCESS["faces"].decode(i).shape[:2]] += 1
        except UserError as error:
            corrupt[i] = str(error)
    return sizes, corrupt


def spread(count: int) -> np.ndarray:
    """At most ROWS_WITHOUT_ALL row numbers below ``count``, evenly spread, the first and the last among them."""
    return np.unique(np.linspace(0, count - 1, min(count, ROWS_WITHOUT_ALL)).astype(np.int64))


def look_at_verification(cfg: Settings, report: Report) -> None:
    """A row for each verification set."""
    if is_of_features(cfg) and cfg.val_targets:
        report.add("verification", f"{', '.join(cfg.val_targets)} are images and not read by a training on features")
    for name in targets_of(cfg):
        path = Path(cfg.dataset) / f"{name}.bin"
        if path.is_file():
            report.row(name, partial(look_at_bin, path, cfg.image_size))
        else:
            report.add(name, f"no file {path}: left out of the verification (config.val_targets)", WARNING)


def look_at_bin(path: Path, image_size: int) -> tuple[str, str]:
    return f"{path}: {len(load_bin(path, image_size)[1]):,} pairs", OK
