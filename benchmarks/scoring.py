"""The work of an evaluation and of a search, timed."""

from collections.abc import Callable

import numpy as np
import torch

from benchmarks.measure import seconds
from evaluation import identification
from evaluation.protocol import Images, Pairs, Search
from evaluation.templates import template_features
from evaluation.verification import one_to_one


def evaluation_seconds(embeddings: np.ndarray, images: Images, pairs: Pairs, search: Search,
                       device: torch.device) -> tuple[dict[str, float], dict[str, dict]]:
    """({part: seconds}, {protocol: figures}) of one evaluation; the search runs on the device."""
    spent: dict[str, float] = {}
    made: dict[str, tuple] = {}

    def timed(name: str, work: Callable[[], object]) -> None:
        def keep() -> None:
            made[name] = work()
        spent[name] = seconds(keep, device)

    timed("pooling", lambda: template_features(embeddings, images))
    features = made["pooling"]
    timed("1:1", lambda: one_to_one(features, features, pairs))
    timed("1:N", lambda: identification.one_to_many(features, features, search, device))
    return spent, {name: made[name][0] for name in ("1:1", "1:N")}


def products_alone(gallery: np.ndarray, queries: torch.Tensor) -> None:
    """Compute all similarities in the blocks of the search, on the device of ``queries``, without using them."""
    step = max(1, identification.SEARCH_SIMILARITIES_PER_BLOCK[queries.device.type] // identification.GALLERY_ROWS_PER_BLOCK)
    for start in range(0, len(gallery), identification.GALLERY_ROWS_PER_BLOCK):
        rows = np.array(gallery[start:start + identification.GALLERY_ROWS_PER_BLOCK])
        block = torch.from_numpy(rows).to(queries.device).T
        for part in queries.split(step):
            part @ block
