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


def test_several_new_models_give_a_row_each(results, tmp_path):
    for name in ("new", "new_on_old"):
        for kind in ("11", "1N"):
            text = (results / f"{name}_{kind}.json").read_text().replace(f'"{name}"', f'"second{name[3:]}"')
            (results / f"second{name[3:]}_{kind}.json").write_text(text.replace("0.65", "0.55"))
    call = [sys.executable, ROOT / "tools/verdict/verdict.py", results, "--old", "old", "--new", "new", "second",
            "--paragon", "alone", "--out", tmp_path / "out"]
    done = subprocess.run([*call, "--metrics", "TAR@1e-2", "top-1"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    row = {line.split("|")[1].strip(): [cell.strip() for cell in line.split("|")[2:-1]]
           for line in done.stdout.splitlines() if line.startswith("|")}
    assert row["new"] == ["75.00", "65.00", "25", "yes", "60.00", "45.00", "-25", "no"]
    assert row["second"] == ["75.00", "55.00", "-25", "no", "60.00", "45.00", "-25", "no"]
    assert row["old"][:2] == ["60.00", "60.00"] and row["paragon"][:2] == ["80.00", "1.00"]
    assert "second on the gallery of old: better than old in 0 of 2 figures" in done.stdout
    assert (tmp_path / "out/verdict.png").stat().st_size > 10_000
    done = subprocess.run(call, capture_output=True, text=True)
    assert done.returncode == 1 and "--metrics TPIR@1e-1 is not among the figures" in done.stderr


def test_missing_results_are_named(results):
    with pytest.raises(UserError, match="no result of other_on_old among .*new_on_old"):
        rows_of(load(results), "old", "other", "alone")
