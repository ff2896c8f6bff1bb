"""The log lines of a running training."""

import re
from types import SimpleNamespace

import torch

from engine.method import Clock
from engine.progress import Progress, duration


def test_durations():
    assert [duration(s) for s in (12.9, 250, 7500, 273_600)] == ["12 s", "4 min 10 s", "2 h 05 min", "3 d 04 h"]


def test_a_term_is_averaged_over_the_steps_that_have_it(one_rank, tmp_path):
    """UniBCT's second term begins in the middle of a log interval."""
    lines = []
    cfg = SimpleNamespace(output=str(tmp_path), frequent=4, batch_size=2, num_epoch=1, fp16=False)
    log = SimpleNamespace(info=lambda text, *values: lines.append(text % values))
    progress = Progress(cfg, one_rank, log, 0, 4)
    for step in range(4):
        terms = {"cls": torch.tensor(1.0 + step)} | ({"bct": torch.tensor(3.0)} if step > 1 else {})
        if progress.step(terms, Clock(0, step, step / 4)):
            progress.report(progress.mean_terms(), Clock(0, step, step / 4), 0.1, skipped=0)
    progress.close()
    first, line = lines
    assert "step 1/4  loss 1.0000  cls 1.0000  lr 0.10000" in first
    assert "step 4/4  loss 6.0000  cls 3.0000  bct 3.0000  lr 0.10000" in line


def log_lines(one_rank, folder, monkeypatch, steps: range, seconds=lambda step: 1.0, frequent: int = 4, **changes) -> list[str]:
    """Lines of a run on 40 steps of which this process does ``steps``; seconds(step): how long a step takes."""
    lines, now = [], [0.0]
    monkeypatch.setattr("engine.progress.time.monotonic", lambda: now[0])
    cfg = SimpleNamespace(output=str(folder), frequent=frequent, batch_size=2, num_epoch=1)
    log = SimpleNamespace(info=lambda text, *values: lines.append(text % values))
    log.warning = log.info
    progress = Progress(cfg, one_rank, log, steps.start, 40)
    vars(progress).update(changes)
    for step in steps:
        now[0] += seconds(step)
        if progress.step({"cls": torch.tensor(1.0)}, Clock(0, step, step / 40)):
            progress.report(progress.mean_terms(), Clock(0, step, step / 40), 0.1, skipped=0)
    progress.close()
    return lines


def test_the_first_line_comes_after_the_first_step_of_each_start(one_rank, tmp_path, monkeypatch):
    for steps, expected in ((range(10), [1, 4, 8]), (range(6, 13), [7, 8, 12]), (range(3, 9), [4, 8]), (range(35, 40), [36, 40])):
        lines = log_lines(one_rank, tmp_path, monkeypatch, steps)
        assert [int(re.search(r"step (\d+)/40", line)[1]) for line in lines] == expected


def test_a_step_that_becomes_many_times_slower_names_the_load(one_rank, tmp_path, monkeypatch):
    """The first step, which takes long in every run, is no measure; neither is one that is three times as slow."""
    lines = log_lines(one_rank, tmp_path, monkeypatch, range(24), lambda step: {0: 90.0}.get(step, [1.0, 3.0, 9.0][step // 8]))
    slow = [int(re.search(r"step (\d+)/", line)[1]) for line in lines if "times as long as at first: load" in line]
    assert slow == [20, 24] and "a step takes 9 times as long" in lines[-1] and " cores (on a shared machine: OMP" in lines[-1]


class Full:
    """A TensorBoard writer on a full disk."""

    def add_scalar(self, *_):
        raise OSError(28, "No space left on device")

    close = add_scalar


def test_points_that_cannot_be_written_are_said_once(one_rank, tmp_path, monkeypatch):
    lines = log_lines(one_rank, tmp_path, monkeypatch, range(10), writer=Full())
    assert sum("a point could not be written to" in line for line in lines) == 1 and len(lines) == 4
    (tmp_path / "file").mkdir()
    (tmp_path / "file/tensorboard").touch()                  # not a folder
    lines = log_lines(one_rank, tmp_path / "file", monkeypatch, range(10))
    assert sum("a point could not be written to" in line for line in lines) == 1 and len(lines) == 4


def test_a_terminal_that_was_closed_ends_no_run(one_rank, tmp_path, monkeypatch):
    class Bar:
        disable = False

        def update(self):
            raise OSError(5, "Input/output error")

        def close(self):
            pass
    assert len(log_lines(one_rank, tmp_path, monkeypatch, range(10), bar=Bar())) == 3
