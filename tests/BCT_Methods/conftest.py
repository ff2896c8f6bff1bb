"""The toy old side, written once for all tests of this folder."""

from pathlib import Path

import pytest
from method_toys import write_old_side


@pytest.fixture(scope="session")
def old_side(tmp_path_factory) -> Path:
    return write_old_side(tmp_path_factory.mktemp("feature_save"))
