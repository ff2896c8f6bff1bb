"""A small comparison: feature files of several models, and the command in this process."""

import sys
from pathlib import Path

import numpy as np

from tools.compare import compare


def run_compare(monkeypatch, *words) -> None:
    """compare.py with these words on its command line."""
    monkeypatch.setattr(sys, "argv", ["compare.py", *map(str, words)])
    compare.main()


def write_features(folder: Path) -> None:
    """Feature files: 40 subjects in the gallery (two rows each), 50 among the probes; old, new, better and 6-d features."""
    draw = np.random.default_rng(0)
    gallery, probe = np.repeat(np.arange(40), 2), draw.integers(0, 50, 300)
    np.save(folder / "gallery_label.npy", gallery)
    np.save(folder / "probe_label.npy", probe)
    pairs = draw.integers(0, (80, 300), (3000, 2))
    np.save(folder / "pairs.npy", np.c_[pairs, gallery[pairs[:, 0]] == probe[pairs[:, 1]]].astype(np.int64))
    centres, turn = draw.standard_normal((50, 8)), np.linalg.qr(draw.standard_normal((8, 8)))[0]
    images = draw.standard_normal((400, 8))
    for name, noise, change in (("old", 1.1, np.eye(8)), ("new", 0.7, np.eye(8)), ("turned", 0.5, turn),
                                ("six", 0.5, turn[:, :6])):
        (folder / name).mkdir()
        for side, labels in (("gallery", gallery), ("probe", probe)):
            rows = (centres[labels] + noise * draw.standard_normal((len(labels), 8))) @ change
            np.save(folder / name / f"{side}.npy", rows.astype(np.float32))
        np.save(folder / name / "train.npy", (images @ change).astype(np.float32))


def write_people(folder: Path, people: int, nonmated: int, pairs: int = 0) -> Path:
    """``people`` with one gallery row and three probes each; the model "good" finds all of them, the others fewer.

    bad: two of the three probes of each person are found, the first points to where nobody is.  half, other: every other person
    is found.  No probe equals a gallery row: its cosine to its person is 0.995.
    """
    folder.mkdir()
    labels, owner = np.arange(people), np.repeat(np.arange(people), 3)
    np.save(folder / "gallery_label.npy", labels)
    np.save(folder / "probe_label.npy", np.r_[owner, 1000 + np.arange(nonmated)])
    if pairs:
        rows = [(k, 3 * k + i, 1) for k in range(people) for i in range(2)]
        np.save(folder / "pairs.npy", np.array(rows + [(i % people, 3 * people + i % nonmated, 0) for i in range(pairs)]))
    axes = np.eye(people + 2, dtype=np.float32)                 # the last two are nobody's
    for name, right in (("good", owner >= 0), ("bad", np.arange(len(owner)) % 3 > 0), ("half", owner % 2 == 0),
                        ("other", owner % 2 == 1)):
        (folder / name).mkdir()
        np.save(folder / name / "gallery.npy", axes[:people])
        probes = axes[np.r_[np.where(right, owner, people), np.full(nonmated, people)]] + .1 * axes[people + 1]
        np.save(folder / name / "probe.npy", probes)
    return folder
