"""The log lines of a running training."""

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
    assert len(lines) == 1 and "loss 5.5000  cls 2.5000  bct 3.0000  lr 0.10000" in lines[0]
