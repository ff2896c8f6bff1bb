"""Identification (1:N): search of probes in galleries."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import reduce
from operator import add

import numpy as np
import torch
from torch import Tensor

from evaluation.protocol import People, Search
from evaluation.verification import ENTRIES, ROUNDING, Rows, answerable, unit_rows

FPIRS = np.array([1e-4, 1e-3, 1e-2, 1e-1, 1.0])             # false positive identification rates, 1:N table
RANKS = (1, 5, 10)
CURVE_FPIRS = np.logspace(-4, 0, 161)
CURVE_RANKS = 50
SEARCH_CELLS = {"cpu": 8_000_000, "cuda": 256_000_000}      # ... and their similarities to probes: 32 MB, 1 GB
TIE = 1e-6                  # cosines that differ by less are equal: float32 rounds the order of sums


# --- 1:N -------------------------------------------------------------------------------------------------

@dataclass(frozen=True)
class Hits:
    """What each of n probes found in one gallery."""

    mate: np.ndarray        # float32 [n], best cosine to its own subject; -inf without one
    other: np.ndarray       # float32 [n], best cosine to any other subject; -inf without one
    rank: np.ndarray        # int64 [n], 1 = its own subject is strictly first; 0 = not in this gallery
    entries: int            # subjects in the gallery

    @property
    def mated(self) -> np.ndarray:
        return self.rank > 0

    def within(self, rank: int) -> int:
        """Probes whose own subject is among the first ``rank``."""
        return int((self.mated & (self.rank <= rank)).sum())

    def tpir(self, fpirs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(TPIR, threshold) per FPIR: mated probes whose mate is first and above the threshold.

        The threshold is entry max(int(n FPIR) - 1, 0) of the n non-mated probes' best scores, descending;
        without non-mated or without mated probes there is none (NaN).
        """
        negatives = np.sort(self.other[~self.mated])[::-1]
        if not len(negatives) or not self.mated.any():
            return np.full(len(fpirs), np.nan), np.full(len(fpirs), np.nan)
        threshold = negatives[np.maximum((len(negatives) * fpirs + ROUNDING).astype(np.int64) - 1, 0)]
        found = np.sort(self.mate[self.rank == 1])
        above = len(found) - np.searchsorted(found, threshold, side="right")
        return above / self.mated.sum(), threshold


@dataclass(frozen=True)
class Block:
    """Neighbouring entries of a gallery: the subjects first .. first + subjects - 1 of it, all of their rows."""

    features: Tensor        # unit rows float32 [E, d]
    member: Tensor          # int64 [E], subject of each row, counted from ``first``
    first: int
    subjects: int

    def holds(self, places: Tensor) -> Tensor:
        """Which of these subjects are in it, bool."""
        return (places >= self.first) & (places < self.first + self.subjects)

    def best(self, probes: Tensor) -> Tensor:
        """Best cosine of each subject to each of the probes [n, d]: [subjects, n]."""
        if self.subjects == len(self.member):
            return (probes @ self.features.T).T         # seen so, what follows goes along the rows of memory
        empty = torch.full((self.subjects, len(probes)), -torch.inf, device=probes.device)
        return empty.scatter_reduce_(0, self.member[:, None].expand(-1, len(probes)), self.features @ probes.T, "amax")


def blocks_of(gallery: Rows, people: People, device: torch.device) -> Iterator[Block]:
    """The entries of ``people`` in the order of their subjects, about ENTRIES rows at a time, or all of one subject's."""
    ordered = people.by_subject()
    starts = np.flatnonzero(np.r_[True, np.diff(ordered.subjects) != 0])
    ends = np.r_[starts[1:], len(ordered.subjects)]
    first = 0
    while first < len(starts):
        last = max(first + 1, int(np.searchsorted(ends, starts[first] + ENTRIES, side="right")))
        rows = slice(starts[first], ends[last - 1])
        member = np.repeat(np.arange(last - first), (ends - starts)[first:last])
        features = torch.from_numpy(unit_rows(gallery, ordered.templates[rows])).to(device)
        yield Block(features, torch.from_numpy(member).to(device), first, last - first)
        first = last


def search(gallery: Rows, query: Rows, people: People, probes: People, device: str | torch.device = "cpu") -> Hits:
    """Search all probes in a gallery; a subject with several templates counts once, with the best of them.

    gallery, query: rows [T, d], of which only a block of the gallery's is in memory at a time (read twice: a rank
    can be counted when the mate's cosine is known).  All probes are: [n, d].
    """
    return search_each(gallery, query, {"": people}, probes, device)[""]


def search_each(gallery: Rows, query: Rows, galleries: dict[str, People], probes: People,
                device: str | torch.device = "cpu") -> dict[str, Hits]:
    """:func:`search` in each of the galleries and, where there are several, in all of them at once ("mixed")."""
    device = torch.device(device)
    queries = torch.from_numpy(unit_rows(query, probes.templates)).to(device)
    places = {name: places_of(people, probes).to(device) for name, people in galleries.items()}
    mates = {name: best_mates(gallery, people, queries, places[name]) for name, people in galleries.items()}
    found, best, others = {}, torch.stack(list(mates.values())).amax(0), []
    before = torch.zeros(len(queries), dtype=torch.int64, device=device)
    for name, people in galleries.items():
        other, (own, mixed) = rivals(gallery, people, queries, places[name], [mates[name], best])
        found[name] = hits_of(mates[name], other, own, len(np.unique(people.subjects)))
        others.append(other)
        before = before + mixed
    everyone = reduce(add, galleries.values())
    subjects = len(np.unique(everyone.subjects))
    if len(galleries) > 1 and subjects == sum(hits.entries for hits in found.values()):
        found["mixed"] = hits_of(best, torch.stack(others).amax(0), before, subjects)
    elif len(galleries) > 1:            # somebody is in two galleries, and would be counted twice
        found["mixed"] = search(gallery, query, everyone, probes, device)
    return found


def hits_of(mate: Tensor, other: Tensor, before: Tensor, entries: int) -> Hits:
    rank = torch.where(mate > -torch.inf, 1 + before, 0)
    return Hits(mate.cpu().numpy(), other.cpu().numpy(), rank.cpu().numpy(), entries)


def places_of(people: People, probes: People) -> Tensor:
    """Place of each probe's subject among those of the gallery, ascending; -1 where it is not there."""
    subjects = np.unique(people.subjects)
    place = np.searchsorted(subjects, probes.subjects).clip(max=len(subjects) - 1)
    return torch.from_numpy(np.where(subjects[place] == probes.subjects, place, -1))


def best_mates(gallery: Rows, people: People, queries: Tensor, places: Tensor) -> Tensor:
    """Best cosine of each probe to its own subject, float32 [n]; -inf without one."""
    mate = torch.full((len(queries),), -torch.inf, device=queries.device)
    for block in blocks_of(gallery, people, queries.device):
        here = torch.nonzero(block.holds(places))[:, 0]
        for part in here.split(block_size(block)):
            own = places[part] - block.first, torch.arange(len(part), device=queries.device)
            mate[part] = block.best(queries[part])[own]
    return mate


def rivals(gallery: Rows, people: People, queries: Tensor, places: Tensor,
           limits: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
    """(best cosine to another subject, float32 [n]; for each of ``limits`` [n]: how many others reach it, int64 [n])."""
    other = torch.full((len(queries),), -torch.inf, device=queries.device)
    reached = [torch.zeros(len(queries), dtype=torch.int64, device=queries.device) for _ in limits]
    for block in blocks_of(gallery, people, queries.device):
        for part in torch.arange(len(queries), device=queries.device).split(block_size(block)):
            best, above = block.best(queries[part]), None
            own = torch.nonzero(block.holds(places[part]))[:, 0]
            best[places[part][own] - block.first, own] = -torch.inf
            other[part] = torch.maximum(other[part], best.amax(0))
            for count, limit in zip(reached, limits, strict=True):
                above = torch.gt(best, limit[part] - TIE, out=torch.empty_like(best) if above is None else above)
                count[part] += above.sum(0).long()
    return other, reached


def block_size(block: Block) -> int:
    """Probes whose similarities to the block are computed at a time."""
    return max(1, SEARCH_CELLS[block.member.device.type] // len(block.member))


def gallery_figures(hits: Hits) -> dict:
    """Figures of one gallery; top-k as a share of its mated probes."""
    mated = int(hits.mated.sum())
    nonmated = len(hits.rank) - mated
    tpir, threshold = (answerable(x, FPIRS, nonmated) for x in hits.tpir(FPIRS))
    return {"entries": hits.entries, "mated": mated, "nonmated": nonmated, "FPIR": FPIRS, "TPIR": tpir,
            "threshold": threshold, "top": {str(k): share(hits.within(k), mated) for k in RANKS}}


def share(part: int, whole: int) -> float:
    return part / whole if whole else np.nan


def one_to_many(gallery: Rows, query: Rows, protocol: Search, device: str | torch.device = "cpu") -> tuple[dict, dict]:
    """(figures for tables and JSON, arrays for plots) of the 1:N protocol; "mixed" is a search in all galleries at once."""
    hits = search_each(gallery, query, protocol.galleries, protocol.probes, device)
    mixed = hits.pop("mixed", None)
    figures, curves = search_figures(hits)
    if mixed is not None:
        figures["galleries"]["mixed"] = gallery_figures(mixed)
    return figures, curves


def search_figures(hits: dict[str, Hits]) -> tuple[dict, dict]:
    """(figures, curves) of the same probes' hits in each gallery.

    TPIR is the mean of the galleries.  "top" pools them: correct probes of all / mated probes of all;
    "top_of_all_probes" divides by all probes, as the public evaluators do (the same where, as in IJB-C, every
    probe has its mate in one gallery).
    """
    per_gallery = {name: gallery_figures(found) for name, found in hits.items()}
    correct = {k: sum(found.within(k) for found in hits.values()) for k in range(1, CURVE_RANKS + 1)}
    mated, probes = sum(f["mated"] for f in per_gallery.values()), len(next(iter(hits.values())).rank)
    figures = {"FPIR": FPIRS, "TPIR": np.mean([f["TPIR"] for f in per_gallery.values()], 0),
               "top": {str(k): share(correct[k], mated) for k in RANKS},
               "top_of_all_probes": {str(k): correct[k] / probes for k in RANKS},
               "probes": probes, "mated": mated, "galleries": per_gallery}
    curves = [answerable(found.tpir(CURVE_FPIRS)[0], CURVE_FPIRS, int((~found.mated).sum())) for found in hits.values()]
    return figures, {"fpir": CURVE_FPIRS, "tpir": np.mean(curves, 0), "ranks": np.array(list(correct)),
                     "cmc": np.array([share(count, mated) for count in correct.values()])}
