"""A protocol for people with pictures: who is enrolled, who searches, which pairs are compared, and which rates that supports."""

from dataclasses import dataclass

import numpy as np

from evaluation.formats import rate
from utils.errors import UserError

MIN_MATED = 4       # two subjects in each of the two galleries


@dataclass(frozen=True)
class Roles:
    """Templates of S people, numbered from 1 in their order; each person's first template holds the enrolled pictures.

    templates: [T, 2] rows (template, subject from 0).  enrolled: int64 [S], first template of each person.  gallery: int64 [S],
    0 or 1, or -1 for a non-mated person.  images: for each person, the template of each of its pictures.
    """

    templates: np.ndarray
    enrolled: np.ndarray
    gallery: np.ndarray
    images: list[list[int]]

    def galleries(self) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
        """(template, subject) of the entries of each gallery."""
        first, second = ([(int(self.enrolled[s]), int(s)) for s in np.flatnonzero(self.gallery == g)] for g in (0, 1))
        return first, second

    def probes(self) -> np.ndarray:
        """Rows (template, subject): every template that is not a gallery's entry."""
        entries = self.enrolled[self.gallery >= 0]
        return self.templates[~np.isin(self.templates[:, 0], entries)]

    def negatives(self) -> int:
        """Number of non-mated probes in the gallery that has the fewer."""
        gallery_of_probe = self.gallery[self.probes()[:, 1]]
        return min(int((gallery_of_probe != g).sum()) for g in (0, 1))

    def mates(self) -> list[int]:
        """Number of mated probes in each gallery."""
        gallery_of_probe = self.gallery[self.probes()[:, 1]]
        return [int((gallery_of_probe == g).sum()) for g in (0, 1)]


def assign(counts: np.ndarray, enrol: int, non_mated: float, rng: np.random.Generator) -> Roles:
    """Roles of people with ``counts`` [S] pictures.

    A person's first ``enrol`` pictures are one template, each further picture is one of its own.  A share ``non_mated`` of the
    people, drawn at random, is in no gallery; who has no picture besides the enrolled ones is among them.  The mated are dealt to
    the galleries at random.
    """
    templates: list[tuple[int, int]] = []
    enrolled: list[int] = []
    images: list[list[int]] = []
    for subject, count in enumerate(counts.tolist()):
        first = len(templates) + 1
        enrolled.append(first)
        images.append([first] * min(enrol, count) + [first + 1 + k for k in range(count - enrol)])
        templates += [(template, subject) for template in range(first, images[-1][-1] + 1)]
    order = rng.permutation(len(counts))
    order = order[np.argsort(counts[order] > enrol, kind="stable")]         # who cannot be mated first
    outside = max(round(non_mated * len(counts)), int((counts <= enrol).sum()))
    gallery = np.full(len(counts), -1)
    gallery[order[outside:]] = np.arange(len(counts) - outside) % 2
    return Roles(np.array(templates), np.array(enrolled), gallery, images)


def draw_pairs(roles: Roles, impostors: int, rng: np.random.Generator) -> list[tuple[int, int, int]]:
    """(enrolled template, template, 1 or 0): all genuine pairs, then impostor pairs, different ones and ``impostors`` at most."""
    templates, subjects = roles.templates.T
    probes = ~np.isin(templates, roles.enrolled)
    genuine = [(int(roles.enrolled[s]), int(t), 1) for t, s in roles.templates[probes]]
    before = roles.enrolled - 1                                 # templates of earlier people
    own = np.bincount(subjects)
    others = len(templates) - own                               # templates of other people, for each enrolled one
    ends = np.cumsum(others)
    chosen = np.sort(rng.choice(ends[-1], min(impostors, int(ends[-1])), replace=False))
    person = np.searchsorted(ends, chosen, side="right")
    place = chosen - (ends - others)[person]                    # among the templates of other people
    place += np.where(place >= before[person], own[person], 0)
    return genuine + [(int(a), int(b), 0) for a, b in zip(roles.enrolled[person], templates[place], strict=True)]


def refuse_too_few(roles: Roles, pairs: list[tuple[int, int, int]], far: float, fpir: float) -> None:
    """UserError if the protocol does not support these rates: 1 / rate impostor pairs or non-mated probes, for one error."""
    people, mated = len(roles.gallery), int((roles.gallery >= 0).sum())
    genuine = sum(same for *_, same in pairs)
    problems = []
    if mated < MIN_MATED or min(roles.mates()) == 0:
        problems.append(f"{mated} people are enrolled and have further pictures, at least {MIN_MATED} are needed")
    for name, value, found, what in (("FAR", far, len(pairs) - genuine, "impostor pairs"),
                                     ("FPIR", fpir, roles.negatives(), "non-mated probes in each gallery")):
        if found * value < 1 - 1e-9:
            problems.append(f"{name} {rate(value)} needs {round(1 / value):,} {what}, there are {found:,}")
    if problems:
        pictures = sum(map(len, roles.images))
        raise UserError(f"{people} people with {pictures} pictures are too few: {'; '.join(problems)}; bring more people, or "
                        f"give a larger --far or --fpir, a smaller --enrol, or another --non-mated")
