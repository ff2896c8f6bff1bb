"""OpenCV's limit on the pixels of an image is in force: in this process, in its workers, for every module that decodes."""

import os
import re
import subprocess
import sys
from multiprocessing import get_context

import numpy as np
import pytest

from utils.opencv import LIMIT, cv2
from utils.paths import ROOT

# Prints whether an image of 8192 x 5000 pixels is decoded.
TRY = "import numpy as np; print(cv2.imdecode(cv2.imencode('.bmp', np.zeros((5000, 8192), np.uint8))[1], 0) is not None)"


def decodes(rows: int) -> bool:
    """Whether OpenCV decodes a grey image of 8192 x ``rows`` pixels."""
    encoded = cv2.imencode(".bmp", np.zeros((rows, 8192), np.uint8))[1]
    try:
        return cv2.imdecode(encoded, cv2.IMREAD_GRAYSCALE) is not None
    except cv2.error:
        return False


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_workers_have_the_limit(method):
    with get_context(method).Pool(1) as pool:
        assert pool.map(decodes, [4096, 4097]) == [True, False]


def run(code: str, **environment: str) -> subprocess.CompletedProcess:
    clean = {name: value for name, value in os.environ.items() if name != LIMIT}
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=clean | environment, capture_output=True, text=True)


def test_a_script_has_the_limit_and_the_users_own_one_wins():
    assert "CV_IO_MAX_IMAGE_PIXELS" in run(f"from utils.opencv import cv2; {TRY}").stderr
    assert run(f"from utils.opencv import cv2; {TRY}", **{LIMIT: str(1 << 26)}).stdout == "True\n"


def test_cv2_without_the_limit_is_refused():
    assert "cv2 was imported before utils.opencv" in run("import cv2, utils.opencv").stderr
    assert run("import cv2, utils.opencv", **{LIMIT: str(1 << 26)}).returncode == 0


def test_every_module_gets_cv2_from_utils_opencv():
    direct = re.compile(r"^\s*(import|from) cv2", re.M)
    files = [file.relative_to(ROOT).as_posix() for file in ROOT.glob("[!.]*/**/*.py") if direct.search(file.read_text())]
    assert "utils/opencv.py" in files and [file for file in files if not file.startswith("tests/")] == ["utils/opencv.py"]
