"""Record files of given labels, in any order."""

import numpy as np
from toy import jpeg

from records.recordio import RecordWriter, pack

SIX = [label for label in range(6) for _ in range(8)]           # six people of eight images each
MIXED = np.random.default_rng(0).permutation(SIX).tolist()


def write(prefix, labels: list, header: list | None = None) -> None:
    """Records of these labels in this order; header: the two numbers of a header record, None: without one."""
    with RecordWriter(prefix) as writer:
        if header:
            writer.write(0, pack(header, b"", 0, 0))
        for key, label in enumerate(labels, 1 if header else 0):
            writer.write(key, pack(label, jpeg(0, key % 3, 16), key, 0))


def runs(labels: list) -> int:
    """Runs of equal labels: identity records that insightface's builder writes."""
    return 1 + int(np.count_nonzero(np.diff(labels)))
