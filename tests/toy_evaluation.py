"""Small evaluation sets, cells and hits for the tests of evaluation/."""

import numpy as np

from evaluation.cells import Cell
from evaluation.evaluation_set import Evaluation
from evaluation.identification import Hits
from evaluation.protocol import Pairs, People, Search


def cell(values: dict, draws: dict | None = None, scores=None, hits: dict | None = None) -> Cell:
    return Cell(values, {k: np.array(v, float) for k, v in (draws or {}).items()}, scores, hits or {}, {})


def hits(mate, other, rank) -> Hits:
    return Hits(np.array(mate, np.float32), np.array(other, np.float32), np.array(rank), 5)


def plain(pairs: Pairs, gallery: list[int], probes: list[int]) -> Evaluation:
    rows = np.arange(len(gallery)), np.arange(len(probes))
    search = Search({"gallery": People(rows[0], np.array(gallery))}, People(rows[1], np.array(probes)))
    subjects = np.unique([*gallery, *probes], return_inverse=True)[1]
    return Evaluation("toy", pairs, search, (subjects[:len(gallery)], subjects[len(gallery):]), rows, np.ones(len(gallery), int))


def random_unit_rows(draw, n: int, d: int) -> np.ndarray:
    x = draw.standard_normal((n, d)).astype(np.float32)
    return x / np.linalg.norm(x, axis=1, keepdims=True)
