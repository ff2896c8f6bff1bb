"""Identification (1:N): search of probes in galleries.

Every function takes the *gallery side* first (the old model's features in a cross test), then the *query side* (probes; always
the new model's): one call is one cell of a compatibility matrix. Features are rows [T, d] of any length, in memory or mapped
from a file; only their direction counts. A probe is mated if its subject is in the gallery; that subject is its mate. Figures
are shares in [0, 1]; a figure is NaN if the data does not support it (an FPIR below 1 / non-mated probes, top-k without mated
probes).
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import reduce
from operator import add

import numpy as np
import torch
from torch import Tensor

from evaluation.protocol import People, Search
from evaluation.verification import ROUNDING, TIE_TOLERANCE, Rows, nan_unless_supported, unit_rows

FPIRS = np.array([1e-4, 1e-3, 1e-2, 1e-1, 1.0])             # false positive identification rates of the 1:N table
RANKS = (1, 5, 10)                                          # k of the top-k in the 1:N table
CURVE_FPIRS = np.logspace(-4, 0, 161)                       # those of the curves in the plots, and the largest rank there
CURVE_RANKS = 50
NEVER = 1 << 40             # rank of a mate that cannot be found
GALLERY_ROWS_PER_BLOCK = 16_384
Scale = Callable[[Tensor, np.ndarray], Tensor]      # products [E, n] of gallery rows [E] and n queries -> their scores
SEARCH_SIMILARITIES_PER_BLOCK = {"cpu": 8_000_000, "cuda": 256_000_000}    # of a block's rows to probes: 32 MB, 1 GB


@dataclass(frozen=True)
class Hits:
    """The result of searching n probes in one gallery."""

    mate: np.ndarray        # float32 [n], best cosine to the mate; -inf if the probe has none
    other: np.ndarray       # float32 [n], best cosine to any other subject; -inf if there is none
    rank: np.ndarray        # int64 [n], rank of the mate, 1: strictly first; 0: the probe has none; -1: it counts nowhere
    entries: int            # subjects in the gallery

    @property
    def mated(self) -> np.ndarray:
        """Which probes have a mate, bool [n]."""
        return self.rank > 0

    @property
    def nonmated(self) -> np.ndarray:
        """Which probes have no mate and count as such, bool [n]."""
        return self.rank == 0

    def within(self, rank: int) -> int:
        """Number of probes whose mate is among the first ``rank`` subjects."""
        return int((self.mated & (self.rank <= rank)).sum())

    def tpir(self, fpirs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(TPIR, threshold) for each FPIR; TPIR: share of the mated probes whose mate is first and above the threshold.

        The threshold is entry max(int(n FPIR) - 1, 0) of the n non-mated probes' best scores, descending. Both are NaN if
        there are no mated or no non-mated probes.
        """
        negatives = np.sort(self.other[self.nonmated])[::-1]
        if not len(negatives) or not self.mated.any():
            return np.full(len(fpirs), np.nan), np.full(len(fpirs), np.nan)
        threshold = negatives[np.maximum((len(negatives) * fpirs + ROUNDING).astype(np.int64) - 1, 0)]
        first = np.sort(self.mate[self.rank == 1])
        above = len(first) - np.searchsorted(first, threshold + TIE_TOLERANCE, side="right")
        return above / self.mated.sum(), threshold


@dataclass(frozen=True)
class Block:
    """All rows of some consecutive subjects of a gallery, whose subjects are numbered from 0 in ascending order."""

    features: Tensor        # unit rows, float32 [E, d]
    member: Tensor          # int64 [E], subject of each row, counted from ``first``
    first: int              # number of the block's first subject in the gallery
    subjects: int           # how many subjects the block has
    rows: np.ndarray        # int [E], the gallery rows
    scale: Scale | None     # of scores; None: they are cosines

    def holds(self, places: Tensor) -> Tensor:
        """Which of these subject numbers belong to the block, bool."""
        return (places >= self.first) & (places < self.first + self.subjects)

    def best(self, probes: Tensor) -> Tensor:
        """Best score of each subject with each of the probes [n, d]: [subjects, n]."""
        if self.subjects == len(self.member) and self.scale is None:
            return (probes @ self.features.T).T         # a transposed view: later steps read memory in order
        scores = self.features @ probes.T
        if self.scale is not None:
            scores = self.scale(scores, self.rows)
        if self.subjects == len(self.member):
            return scores
        empty = torch.full((self.subjects, len(probes)), -torch.inf, device=probes.device)
        return empty.scatter_reduce_(0, self.member[:, None].expand(-1, len(probes)), scores, "amax")


def blocks_of(gallery: Rows, people: People, device: torch.device, scale: Scale | None = None) -> Iterator[Block]:
    """The gallery's rows in the order of their subjects, in blocks of at most GALLERY_ROWS_PER_BLOCK rows or of one subject."""
    ordered = people.by_subject()
    starts = np.flatnonzero(np.r_[True, np.diff(ordered.subjects) != 0])
    ends = np.r_[starts[1:], len(ordered.subjects)]
    first = 0
    while first < len(starts):
        last = max(first + 1, int(np.searchsorted(ends, starts[first] + GALLERY_ROWS_PER_BLOCK, side="right")))
        rows = slice(starts[first], ends[last - 1])
        member = np.repeat(np.arange(last - first), (ends - starts)[first:last])
        features = torch.from_numpy(unit_rows(gallery, ordered.templates[rows])).to(device)
        yield Block(features, torch.from_numpy(member).to(device), first, last - first, ordered.templates[rows], scale)
        first = last


def search(gallery: Rows, query: Rows, people: People, probes: People, device: str | torch.device = "cpu",
           scale: Scale | None = None) -> Hits:
    """Search all probes in one gallery; a subject with several templates counts once, with the best of them.

    gallery, query: rows [T, d]. One block of gallery rows and all probes [n, d] are in memory at a time. The gallery is read
    twice, because a rank can only be counted when the mate's cosine is known.
    """
    return search_each(gallery, query, {"": people}, probes, device, scale)[""]


def search_each(gallery: Rows, query: Rows, galleries: dict[str, People], probes: People,
                device: str | torch.device = "cpu", scale: Scale | None = None) -> dict[str, Hits]:
    """:func:`search` in each gallery and, if there are several, in the merged gallery of all ("mixed").  {gallery: hits}

    scale: makes a score of each cosine; hits then have scores where they have cosines otherwise.

    Templates without an image are never found: see :func:`with_missing`.
    """
    device, everybody = torch.device(device), galleries | {"mixed": reduce(add, galleries.values())}
    every_probe, probes = probes, probes.with_images()
    galleries = {name: people.with_images() for name, people in galleries.items()}
    queries = torch.from_numpy(unit_rows(query, probes.templates)).to(device)
    places = {name: places_of(people, probes).to(device) for name, people in galleries.items()}
    mates = {name: best_mates(gallery, people, queries, places[name], scale) for name, people in galleries.items()}
    hits, best, others = {}, torch.stack(list(mates.values())).amax(0), []
    before = torch.zeros(len(queries), dtype=torch.int64, device=device)
    for name, people in galleries.items():
        other, (ahead, ahead_of_best) = rivals(gallery, people, queries, places[name], [mates[name], best], scale)
        hits[name] = hits_of(mates[name], other, ahead, len(np.unique(people.subjects)))
        others.append(other)
        before = before + ahead_of_best
    everyone = reduce(add, galleries.values())
    subjects = len(np.unique(everyone.subjects))
    if len(galleries) > 1 and subjects == sum(single.entries for single in hits.values()):
        hits["mixed"] = hits_of(best, torch.stack(others).amax(0), before, subjects)
    elif len(galleries) > 1:            # a subject in two galleries would be counted twice
        hits["mixed"] = search(gallery, query, everyone, probes, device, scale)         # both have images: no recursion
    return {name: with_missing(single, everybody[name], every_probe) for name, single in hits.items()}


def with_missing(hits: Hits, people: People, probes: People) -> Hits:
    """The hits of all probes from those of the probes with an image in the entries with an image.

    A probe whose mate or own template has no image has rank NEVER: it is mated and found at no rank and no threshold. A probe
    without image and without mate in this gallery counts nowhere.
    """
    if people.never is None and probes.never is None:
        return hits
    known = np.ones(len(probes.subjects), bool) if probes.never is None else ~probes.never
    mate, other = (np.full(len(known), -np.inf, np.float32) for _ in range(2))
    rank = np.full(len(known), -1)
    mate[known], other[known], rank[known] = hits.mate, hits.other, hits.rank
    rank[np.isin(probes.subjects, people.subjects) & (rank < 1)] = NEVER
    return Hits(mate, other, rank, len(np.unique(people.subjects)))


def hits_of(mate: Tensor, other: Tensor, before: Tensor, entries: int) -> Hits:
    """Hits of n probes.  before: int64 [n], subjects that rank before the mate, ties included."""
    rank = torch.where(mate > -torch.inf, 1 + before, 0)
    return Hits(mate.cpu().numpy(), other.cpu().numpy(), rank.cpu().numpy(), entries)


def places_of(people: People, probes: People) -> Tensor:
    """Number of each probe's subject among the gallery's subjects, ascending, int64 [n]; -1: it is not in the gallery."""
    subjects = np.unique(people.subjects)
    place = np.searchsorted(subjects, probes.subjects).clip(max=len(subjects) - 1)
    return torch.from_numpy(np.where(subjects[place] == probes.subjects, place, -1))


def best_mates(gallery: Rows, people: People, queries: Tensor, places: Tensor, scale: Scale | None = None) -> Tensor:
    """Best cosine of each probe to its mate, float32 [n]; -inf if it has none.  places: [n] of :func:`places_of`."""
    mate = torch.full((len(queries),), -torch.inf, device=queries.device)
    for block in blocks_of(gallery, people, queries.device, scale):
        mated = torch.nonzero(block.holds(places))[:, 0]
        for part in mated.split(block_size(block)):
            mates = places[part] - block.first, torch.arange(len(part), device=queries.device)
            mate[part] = block.best(queries[part])[mates]
    return mate


def rivals(gallery: Rows, people: People, queries: Tensor, places: Tensor,
           limits: list[Tensor], scale: Scale | None = None) -> tuple[Tensor, list[Tensor]]:
    """(best cosine to a subject other than the mate, float32 [n]; for each limit [n]: how many of them reach it, int64 [n])."""
    other = torch.full((len(queries),), -torch.inf, device=queries.device)
    reached = [torch.zeros(len(queries), dtype=torch.int64, device=queries.device) for _ in limits]
    for block in blocks_of(gallery, people, queries.device, scale):
        for part in torch.arange(len(queries), device=queries.device).split(block_size(block)):
            best, above = block.best(queries[part]), None
            mated = torch.nonzero(block.holds(places[part]))[:, 0]
            best[places[part][mated] - block.first, mated] = -torch.inf
            other[part] = torch.maximum(other[part], best.amax(0))
            for count, limit in zip(reached, limits, strict=True):
                above = torch.gt(best, limit[part] - TIE_TOLERANCE, out=torch.empty_like(best) if above is None else above)
                count[part] += above.sum(0).long()
    return other, reached


def block_size(block: Block) -> int:
    """Number of probes whose similarities to the block are computed at a time."""
    return max(1, SEARCH_SIMILARITIES_PER_BLOCK[block.member.device.type] // len(block.member))


def gallery_figures(hits: Hits) -> dict:
    """Figures of one gallery for tables and JSON; top-k is a share of the mated probes."""
    mated = int(hits.mated.sum())
    nonmated = int(hits.nonmated.sum())
    tpir, threshold = (nan_unless_supported(x, FPIRS, nonmated) for x in hits.tpir(FPIRS))
    return {"entries": hits.entries, "mated": mated, "nonmated": nonmated, "FPIR": FPIRS, "TPIR": tpir,
            "threshold": threshold, "top": {str(k): share(hits.within(k), mated) for k in RANKS}}


def share(part: int, total: int) -> float:
    """part / total; NaN if ``total`` is 0."""
    return part / total if total else np.nan


def one_to_many(gallery: Rows, query: Rows, protocol: Search, device: str | torch.device = "cpu") -> tuple[dict, dict]:
    """(figures for tables and JSON, arrays for plots) of the 1:N protocol; "mixed" is the search in the merged gallery."""
    hits = search_each(gallery, query, protocol.galleries, protocol.probes, device)
    merged = hits.pop("mixed", None)
    figures, curves = search_figures(hits)
    if merged is not None:
        figures["galleries"]["mixed"] = gallery_figures(merged)
    return figures, curves


def search_figures(hits: dict[str, Hits]) -> tuple[dict, dict]:
    """(figures, curves) from the hits of the same probes in each gallery.

    TPIR is the mean over the galleries. "top" pools them: correct probes of all galleries / mated probes of all galleries.
    "top_of_all_probes" divides by all probes as the public evaluators do; in IJB-C, where every probe has a mate in one of the
    galleries, the two are the same.
    """
    per_gallery = {name: gallery_figures(single) for name, single in hits.items()}
    correct = {k: sum(single.within(k) for single in hits.values()) for k in range(1, CURVE_RANKS + 1)}
    mated, probes = sum(f["mated"] for f in per_gallery.values()), len(next(iter(hits.values())).rank)
    figures = {"FPIR": FPIRS, "TPIR": np.mean([f["TPIR"] for f in per_gallery.values()], 0),
               "top": {str(k): share(correct[k], mated) for k in RANKS},
               "top_of_all_probes": {str(k): correct[k] / probes for k in RANKS},
               "probes": probes, "mated": mated, "galleries": per_gallery}
    curves = [nan_unless_supported(single.tpir(CURVE_FPIRS)[0], CURVE_FPIRS, int(single.nonmated.sum()))
              for single in hits.values()]
    return figures, {"fpir": CURVE_FPIRS, "tpir": np.mean(curves, 0), "ranks": np.array(list(correct)),
                     "cmc": np.array([share(count, mated) for count in correct.values()])}
