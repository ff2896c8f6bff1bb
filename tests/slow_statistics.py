"""Statistics of old features by plain loops over Python numbers, written from the equations."""

import math

import numpy as np


def random_features(seed: int = 0, n: int = 200, count: int = 9) -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(seed)
    labels = np.concatenate([np.arange(count), draw.integers(0, count, n - count)])
    return draw.standard_normal((n, 5)).astype(np.float32) * draw.uniform(1, 9, (n, 1)).astype(np.float32), labels


def slow_credible(rows: np.ndarray, labels: np.ndarray, share: float, column_norm: bool) -> list[bool]:
    rows = [[v / math.sqrt(sum(w * w for w in row)) for v in row] for row in rows.astype(float).tolist()]
    if column_norm:
        norms = [math.sqrt(sum(row[j] ** 2 for row in rows)) for j in range(5)]
        rows = [[v / norm for v, norm in zip(row, norms, strict=True)] for row in rows]
    mask = [False] * len(rows)
    for label in set(labels.tolist()):
        images = [i for i in range(len(rows)) if labels[i] == label]
        mean = [sum(rows[i][j] for i in images) / len(images) for j in range(5)]
        images.sort(key=lambda i: sum((v - m) ** 2 for v, m in zip(rows[i], mean, strict=True)))
        for i in images[:math.ceil(round(share * len(images), 6))]:
            mask[i] = True
    return mask
