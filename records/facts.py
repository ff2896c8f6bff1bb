"""What the data say about a training: a value of its own, apart from the settings."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Facts:
    """Counts of the training set as the record file has them.

    classes: of the head.  fingerprint: of the record file; None for random images.
    """

    images: int
    classes: int
    fingerprint: str | None = None
