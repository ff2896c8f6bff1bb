"""Adds the repository to the path, hides GPUs; fixtures that many tests use."""

import logging
import multiprocessing
import os
import sys
from pathlib import Path

import pytest

os.environ.setdefault("JE_ARROW_MALLOC_CONF", "background_thread:false")     # scikit-learn imports pyarrow where it is
os.environ.setdefault("OMP_NUM_THREADS", "1")       # toy sizes: threads would only wait for each other; 2 tries two

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from folders import folder_of

import utils.opencv  # noqa: F401  before a test imports cv2: it sets OpenCV's limit


def pytest_configure(config: pytest.Config) -> None:
    """Hide the GPUs, unless ``-m cuda`` asks for the tests on one.

    The other tests compare with numbers of a CPU, and start more ranks than a machine has GPUs.  Tests on a GPU start fresh
    processes: the fork of a process that has asked for a GPU cannot use it.
    """
    if "cuda" in config.option.markexpr.replace("not cuda", ""):
        import processes
        processes.CONTEXT = multiprocessing.get_context("spawn")
    else:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""


def pytest_collection_modifyitems(items: list) -> None:
    """Put the files with long tests first, so that two workers that take a file at a time end together."""
    long_files = {item.path for item in items if item.get_closest_marker("long")}
    items.sort(key=lambda item: item.path not in long_files)


@pytest.fixture
def faces() -> Path:
    """Real faces in MS1MV3's and IJB-C's layout."""
    return folder_of("FACES", ROOT.parent / "shared/data/lfw")


@pytest.fixture
def one_rank():
    """The process group of one rank that a script has without a launcher."""
    import torch.distributed as dist

    from engine.distributed import start_ranks

    yield start_ranks()
    dist.destroy_process_group()


@pytest.fixture(autouse=True)
def fresh_log():
    """Remove the handlers that a run inside a test adds to the project's logger, so that pytest captures it again."""
    log = logging.getLogger("bct")
    log.handlers.clear()
    log.propagate = True
