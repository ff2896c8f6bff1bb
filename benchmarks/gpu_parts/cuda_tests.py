"""The tests with the marker "cuda", by pytest in a process of its own."""

import importlib.util
import re
import subprocess
import sys
import time
from functools import partial

from benchmarks.gpu_parts.job import Cases, Job
from utils.paths import ROOT

NONE_COLLECTED = 5      # pytest's exit codes
RAN = (0, 1)


def cases(job: Job) -> Cases:
    yield {"command": f"python -m pytest -q -m cuda {job.sizes.tests}"}, partial(tests, job)


def tests(job: Job) -> list[dict]:
    """A row with pytest's last line, and one for each test that failed."""
    if importlib.util.find_spec("pytest") is None:
        return [{"result": "pytest is not installed: no test was run"}]
    command = [sys.executable, "-m", "pytest", "-q", "-rfE", "-p", "no:cacheprovider", "-m", "cuda", job.sizes.tests]
    log = job.folder / "pytest.log"
    try:
        with open(log, "w") as file:
            code = subprocess.run(command, cwd=ROOT, stdout=file, stderr=subprocess.STDOUT,
                                  timeout=max(1.0, job.deadline - time.monotonic())).returncode
        return outcome(code, log.read_text())
    except subprocess.TimeoutExpired:
        return [{"result": f"ended because the time of this part was over, after: {last_line(log.read_text())}"}]
    finally:
        print(log.read_text())


def outcome(code: int, text: str) -> list[dict]:
    """Rows from pytest's exit code and output; RuntimeError if it did not run the tests."""
    if code == NONE_COLLECTED:
        return [{"result": "no test has the marker cuda"}]
    if code not in RAN:
        raise RuntimeError(f"pytest ended with exit code {code}: {last_line(text)}")
    failed = re.findall(r"^(?:FAILED|ERROR) (.*)", text, re.MULTILINE)
    return [{"result": last_line(text)}, *({"result": f"failed: {line[:300]}"} for line in failed)]


def last_line(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1].strip("= ") if lines else "no output"
