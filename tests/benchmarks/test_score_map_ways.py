"""benchmarks/score_maps.py: its alternatives against formulas, and its table on a small comparison."""

import sys

import numpy as np
import pytest
from toy_comparison import write_features

from benchmarks import score_maps


def test_a_pareto_tail_fits_a_tail_that_ends():
    """Uniform scores have a tail of shape -1: the share above s is 1 - s.  The exponential tail claims more."""
    scores = np.random.default_rng(0).random(400_000)
    found = score_maps.pareto(scores)
    for score in (0.9, 0.995, 0.998, 0.999):
        assert found(score) == pytest.approx(-np.log10(1 - score), abs=0.05), score
    assert (np.diff(found(np.linspace(-1, 1.5, 500))) >= 0).all()


def test_logistic_regression_finds_the_log_odds_of_two_normal_distributions():
    """Impostors N(0, 0.1), mates N(0.5, 0.1): the log odds are 50 s - 12.5."""
    draw = np.random.default_rng(0)
    found = score_maps.logistic(draw.normal(0, 0.1, 50_000), draw.normal(0.5, 0.1, 50_000))
    assert found(0.25) == pytest.approx(0, abs=0.3) and found(0.35) - found(0.25) == pytest.approx(5, rel=0.1)


def test_every_way_has_a_row_with_the_same_ends(tmp_path, monkeypatch, capsys):
    write_features(tmp_path)
    monkeypatch.setattr(score_maps, "STEPS", 2)
    monkeypatch.setattr(sys, "argv", ["score_maps.py", "-d", str(tmp_path), "--old", f"old={tmp_path}/old", "--new",
                                      f"new={tmp_path}/new", "--orders", "1", "--draws", "5", "--out", str(tmp_path / "out")])
    score_maps.main()
    lines = capsys.readouterr().out.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("new, TAR@1e-1"))
    rows = [line[25:].split() for line in lines[start + 1:start + 10]]
    assert len({(row[0], row[2]) for row in rows}) == 1 and [line[2:].split()[0] for line in lines[start + 1:start + 10]] == [
        "raw", "exponential", "exponential,", "exponential,", "Pareto", "Pareto,", "Pareto,", "z-norm", "logistic"]
