"""The toy old side of tests/method_toys.py, which no test changes."""

from pathlib import Path

import pytest
from method_toys import write_old_side


@pytest.fixture(scope="session")
def old_side(tmp_path_factory) -> Path:
    return write_old_side(tmp_path_factory.mktemp("feature_save"))
