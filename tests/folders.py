"""Folders of data that some tests read."""

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def folder_of(variable: str, default: Path) -> Path:
    """The folder that an environment variable names; the test is skipped if it does not exist."""
    folder = Path(os.environ.get(variable, default))
    if not folder.is_dir():
        pytest.skip(f"no folder {folder}; set {variable} to run this test")
    return folder


def golden_folder() -> Path:
    """Inputs and outputs of the public code (tests/golden/README.md)."""
    return folder_of("GOLDEN", ROOT / "tests/golden")
