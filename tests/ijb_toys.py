"""Small IJB folders whose templates, scores and ranks can be worked out by hand."""

from pathlib import Path

import numpy as np

POINTS = [(38.2946, 51.6963), (73.5318, 51.5014), (56.0252, 71.7366), (41.5493, 92.3655), (70.729904, 92.2041)]
# ArcFace's five points in a 112 x 112 face, x and y in pixels, typed from its publication and not read from the program.


def write_meta(data: Path, images: list, pairs: list, galleries: dict, probes: list, shift=(0, 0)) -> None:
    """<data>/IJBC without image files: images [(template, medium, detector score)], pairs [(enrol, verify, 0 or 1)],
    galleries {"G1": [(template, subject)], "G2": ...}, probes [(template, subject)]; shift: of all landmarks, in pixels."""
    meta = data / "IJBC/meta"
    meta.mkdir(parents=True)
    (data / "IJBC/loose_crop").mkdir()
    points = " ".join(f"{x + shift[0]} {y + shift[1]}" for x, y in POINTS)
    tables = {"face_tid_mid.txt": [f"{i}.png {t} {m}" for i, (t, m, _) in enumerate(images, 1)],
              "name_5pts_score.txt": [f"{i}.png {points} {score}" for i, (_, _, score) in enumerate(images, 1)],
              "template_pair_label.txt": [f"{a} {b} {same}" for a, b, same in pairs]}
    for name, people in (*((f"1N_gallery_{k}.csv", v) for k, v in galleries.items()), ("1N_probe_mixed.csv", probes)):
        tables[name] = ["TEMPLATE_ID,SUBJECT_ID", *(f"{t},{s}" for t, s in people)]
    for name, rows in tables.items():
        (meta / f"ijbc_{name}").write_text("\n".join(rows) + "\n")


# --- two galleries -----------------------------------------------------------------------------------------
# Gallery templates 1 to 4 show the subjects 10 to 13; G1 has the first two.  The old model stores them at the axes 0 to 3,
# the new one at 1, 2, 3, 0.  A probe of the new model has a cosine to its person's axis and one to an axis of the other gallery.
OWN = [.90, .80, .70, .65, .60, .50, .40, .30, .20, .10,                # ten probes of the subjects 10 and 11 in turn
       *[.90 - .01 * k for k in range(15)], .44, .43, .42, .41, .05]    # twenty of 12 and 13 in turn
ACROSS = [*[.01] * 5, .45, *[.01] * 4, *[.02] * 15, .62, .55, *[.02] * 3]      # cosine to the other gallery's first entry
MISTAKEN = {9: .15, 29: .12}                                # probe -> cosine to the other person of its own gallery
IMAGES_OF = [1, 2, 3, 4]                                    # images of the gallery templates
MEDIA_OF = [[1], [2, 2], [3, 4, 5], [6, 6, 7, 7]]
SCORES_OF = [[.9], [.4, .6], [.7, .7, .7], [.1, .1, .1, .9]]
NORM_OF = [2, 4, 1, 3]                                      # of the old model's features of these images


def two_galleries(data: Path) -> dict[str, np.ndarray]:
    """Write the folder; {"new", "old": float32 [2, N, 5] of images and mirror images}.

    30 probes with a mate and two without: G1 has 10 mated and 22 others, G2 20 and 12.
    """
    subjects = [10 + i % 2 for i in range(10)] + [12 + i % 2 for i in range(20)] + [90, 91]
    images = [(t + 1, medium, score) for t in range(4) for medium, score in zip(MEDIA_OF[t], SCORES_OF[t], strict=True)]
    gallery = [t for t in range(4) for _ in range(IMAGES_OF[t])]
    images += [(100 + i, 1000 + i, 1.0) for i in range(32)]
    pairs = [(t + 1, 100 + i, int(t + 10 == subject)) for i, subject in enumerate(subjects) for t in range(4)]
    write_meta(data, images, pairs, {"G1": [(1, 10), (2, 11)], "G2": [(3, 12), (4, 13)]},
               [(100 + i, subject) for i, subject in enumerate(subjects)])
    probes = np.zeros((32, 5))
    for i, own in enumerate(OWN):
        probes[i, [subjects[i] - 10, 2 if i < 10 else 0]] = own, ACROSS[i]
        if i in MISTAKEN:
            probes[i, (subjects[i] - 10) ^ 1] = MISTAKEN[i]
    probes[:, 4] = np.sqrt(1 - np.square(probes).sum(1))
    nobody = np.eye(5)[[4] * 32]
    found = {"new": np.r_[np.eye(5)[[(t + 1) % 4 for t in gallery]], probes],
             "old": np.r_[np.eye(5)[gallery] * np.array([NORM_OF[t] for t in gallery])[:, None], nobody]}
    half = np.array([.25, -.5, .125, .25, .5])                  # only the sum of the two views is what the lists above say
    return {name: np.stack([rows / 2 + half, rows / 2 - half]).astype(np.float32) for name, rows in found.items()}
