"""The rehearsal set as files: MS1MV3's layout for training and verification, IJB-C's for evaluation."""

import pickle
from collections.abc import Iterator
from functools import partial
from multiprocessing import Pool
from pathlib import Path

import numpy as np
from tqdm import tqdm

from evaluation.ijb_files import Protocol, new_subset, write_meta
from records.recordio import RecordWriter, pack
from tools.rehearsal.identity import LAYOUT, draws, identity
from tools.rehearsal.render import Difficulty, Picture, render
from utils.errors import UserError
from utils.files import write_text, written_beside
from utils.opencv import cv2

# Identity numbers of the three sets never meet.
TRAIN, VERIFY, EVALUATE = 0, 1_000_000, 2_000_000
NOTE = "rehearsal.txt"      # in the folder of the rehearsal set: its settings


def refuse_foreign(out: Path) -> None:
    """UserError if ``out`` has a data set that is not a rehearsal set (NOTE is missing), so that it is not replaced."""
    for data in (out / "ms1m-retinaface-t1/train.rec", out / "ms1m-retinaface-t1/train.idx", out / "ijb/IJBC"):
        if data.exists() and not (out / NOTE).exists():
            raise UserError(f"{data} exists and is not a rehearsal set ({out / NOTE} is missing): give another --out")


def encode(picture: Picture) -> bytes:
    """The picture as a JPEG of its own quality."""
    return cv2.imencode(".jpg", picture.rgb[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, picture.jpeg])[1].tobytes()


def draw(job: tuple, seed: int, size: int, difficulty: Difficulty, loose: bool) -> list[tuple[bytes, Picture]]:
    """All pictures of one person, each as (JPEG, picture without pixels).  job: (number of the person, [(image, scene), ...])."""
    number, pictures = job
    who = identity(seed, number)
    made = [render(who, image, size, difficulty, scene=scene, loose=loose) for image, scene in pictures]
    return [(encode(picture), picture._replace(rgb=np.empty((0, 0, 3), np.uint8))) for picture in made]


def draw_all(jobs: list[tuple], what: str, workers: int, **settings) -> Iterator[list]:
    """Yield the pictures of each person in the order of ``jobs``; ``workers`` processes draw them.  what: text of the bar."""
    total = sum(len(pictures) for _, pictures in jobs)
    with Pool(workers, initializer=cv2.setNumThreads, initargs=(0,)) as pool, \
            tqdm(total=total, desc=what, unit=" images", disable=None) as bar:
        for pictures in pool.imap(partial(draw, **settings), jobs, chunksize=4):
            bar.update(len(pictures))
            yield pictures


def write_training_set(folder: Path, people: int, mean_images: float, **settings) -> int:
    """Write train.{rec,idx} and property as in MS1MV3; returns the number of images.

    A person has 2 + Poisson images, with a gamma-distributed mean: half of the people have about the mean, some far fewer.
    """
    rng = draws(settings["seed"], LAYOUT, 0)
    counts = 2 + rng.poisson(rng.gamma(3.0, max(mean_images - 2, 0) / 3.0, people))
    jobs = [(TRAIN + number, [(i, i) for i in range(n)]) for number, n in enumerate(counts.tolist())]
    total, key, ranges = int(counts.sum()), 1, []
    with RecordWriter(folder / "train") as writer:
        writer.write(0, pack([total + 1, total + 1 + people], b"", 0, 0))
        for label, pictures in enumerate(draw_all(jobs, "training set", loose=False, **settings)):
            ranges.append((key, key + len(pictures)))
            for jpeg, _ in pictures:
                writer.write(key, pack([label, key], jpeg, key, 0))
                key += 1
        for number, span in enumerate(ranges):
            writer.write(key + number, pack(span, b"", key + number, 0))
    write_text(folder / "property", f"{people},{settings['size']},{settings['size']}\n")
    return total


def write_bin(file: Path, pairs: int, **settings) -> int:
    """Write a verification .bin of (list of bytes, list of bool); genuine and impostor pairs take turns.

    pairs: 2 or more.  Returns the number of images.
    """
    jobs = [(VERIFY + number, [(0, 0), (1, 1), (2, 2)]) for number in range(max(-(-pairs // 2), 2))]
    people = [[jpeg for jpeg, _ in pictures] for pictures in
              draw_all(jobs, file.name, loose=False, **settings)]
    bins = []
    for number, (first, second, third) in enumerate(people):
        bins += [first, second, third, people[(number + 1) % len(people)][1]]
    with written_beside(file) as part:
        part.write_bytes(pickle.dumps((bins[:2 * pairs], [i % 2 == 0 for i in range(pairs)])))
    return 3 * len(people)


def write_ijb(folder: Path, people: int, impostors: int, **settings) -> int:
    """Write IJBC/{loose_crop,meta} in ``folder``; returns the number of images.

    Each person has three templates of one to six images from one or two scenes; a scene is a medium.  For 2 people in 3, the
    first template is their entry in gallery G1 or G2; the probes of the others are non-mated.
    impostors: number of impostor pairs, drawn at random; all genuine pairs are listed.
    """
    rng = draws(settings["seed"], LAYOUT, 1)
    jobs, rows, owner, medium = [], [], [], 0
    for person in range(people):
        pictures, image = [], 0
        for _ in range(3):
            owner.append(person)
            for _ in range(int(rng.integers(1, 3))):
                medium += 1
                for _ in range(int(rng.integers(1, 4))):
                    pictures.append((image, medium))
                    rows.append((len(owner), medium))
                    image += 1
        jobs.append((EVALUATE + person, pictures))

    protocol = lists_of(np.array(owner), impostors, rng)
    with new_subset(folder, "IJBC") as part:
        drawn = (one for pictures in draw_all(jobs, "evaluation set", loose=True, **settings) for one in pictures)
        for (jpeg, picture), (template, scene) in zip(drawn, rows, strict=True):
            name = protocol.add_image(template, scene, picture.landmarks, float(np.clip(picture.quality, 0.05, 0.999)))
            (part / "loose_crop" / name).write_bytes(jpeg)
        write_meta(part / "meta", "IJBC", protocol)
    return len(rows)


def lists_of(owner: np.ndarray, impostors: int, rng: np.random.Generator) -> Protocol:
    """Pairs, galleries and probes.  Template t belongs to person owner[t - 1]."""
    a, b = np.triu_indices(len(owner), 1)
    same = owner[a] == owner[b]
    chosen = np.flatnonzero(~same)
    chosen = np.sort(rng.choice(chosen, min(impostors, len(chosen)), replace=False))
    pairs = [(x + 1, y + 1, 1) for x, y in zip(a[same], b[same], strict=True)] + [(a[i] + 1, b[i] + 1, 0) for i in chosen]
    first = np.arange(len(owner)) % 3 == 0

    def listed(members: np.ndarray) -> list[tuple[int, int]]:
        return [(t + 1, owner[t]) for t in np.flatnonzero(members)]

    return Protocol(pairs=pairs, galleries=(listed(first & (owner % 3 == 0)), listed(first & (owner % 3 == 1))),
                    probes=listed(~first))
