"""The verdict on hand-worked results: criterion, update gain, what is left out, what is refused."""

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest

from tools.verdict.verdict import gain, holds, load, rows_of
from utils.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
TAR = {"old": 0.60, "new": 0.75, "new_on_old": 0.65, "alone": 0.80, "alone_on_old": 0.01}
TOP = {"old": 0.50, "new": 0.60, "new_on_old": 0.45, "alone": 0.70, "alone_on_old": 0.02}


@pytest.fixture
def results(tmp_path) -> Path:
    for name in TAR:
        one = {"settings": {"name": name, "protocol": "1:1"}, "1:1": {"FAR": [1e-6, 1e-2], "TAR": [None, TAR[name]]}}
        many = {"settings": {"name": name, "protocol": "1:N"},
                "1:N": {"top": {"1": TOP[name]}, "FPIR": [0.1], "TPIR": [None]}}
        (tmp_path / f"{name}_11.json").write_text(json.dumps(one))
        (tmp_path / f"{name}_1N.json").write_text(json.dumps(many))
    return tmp_path


def test_criterion_and_gain(results):
    rows = rows_of(load(results), "old", "new", "alone")
    assert rows["new / old"] == pytest.approx({"TAR@1e-2": 65.0, "top-1": 45.0})
    assert holds(rows, "TAR@1e-2") and not holds(rows, "top-1")
    assert gain(rows, "TAR@1e-2") == pytest.approx(25.0)        # (65 - 60) / (80 - 60)
    assert gain(rows, "top-1") == pytest.approx(-25.0)          # (45 - 50) / (70 - 50)


def test_no_gain_without_a_better_paragon(results):
    rows = rows_of(load(results), "old", "new", "alone")
    rows["paragon / paragon"] = rows["old / old"]
    assert math.isnan(gain(rows, "top-1"))


def test_command_line(results, tmp_path):
    done = subprocess.run([sys.executable, ROOT / "tools/verdict/verdict.py", results, "--old", "old", "--new", "new",
                           "--paragon", "alone", "--out", tmp_path / "out"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "new on the gallery of old: better than old in 1 of 2 figures (not in top-1)" in done.stdout
    assert (tmp_path / "out/verdict.txt").read_text() in done.stdout
    assert (tmp_path / "out/verdict.png").stat().st_size > 10_000


def test_missing_results_are_named(results):
    with pytest.raises(UserError, match="no result of other_on_old among .*new_on_old"):
        rows_of(load(results), "old", "other", "alone")
