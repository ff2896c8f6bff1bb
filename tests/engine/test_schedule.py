"""The learning rate at hand-worked points."""

import pytest

from engine.schedule import learning_rate


def test_linear_to_zero():
    assert [learning_rate(s, 0.1, 100) for s in (0, 50, 99, 100)] == pytest.approx([0.1, 0.05, 0.001, 0.0])


def test_power_two():
    assert learning_rate(50, 0.1, 100, power=2) == pytest.approx(0.025)


def test_warmup_rises_from_zero_then_falls():
    assert [learning_rate(s, 0.1, 110, warmup_steps=10) for s in (0, 5, 10, 60)] == pytest.approx([0, 0.05, 0.1, 0.05])


def test_staircase():
    assert [learning_rate(s, 0.1, 100, decay_steps=(20, 26)) for s in (19, 20, 26)] == pytest.approx([0.1, 0.01, 0.001])
