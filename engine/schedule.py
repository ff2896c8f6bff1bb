"""The learning rate as a function of the step."""


def learning_rate(step: int, lr: float, total_steps: int, warmup_steps: int = 0, power: float = 1.0,
                  decay_steps: tuple[int, ...] = ()) -> float:
    """Learning rate of update ``step`` (0-based) out of ``total_steps``.

    Linear rise over warmup_steps, then lr * (1 - done)^power down to 0 at total_steps; power 1 is the
    document's linear schedule, 2 the public code's.  With decay_steps it is a staircase instead: x 0.1 at each.
    """
    if step < warmup_steps:
        return lr * step / warmup_steps
    if decay_steps:
        return lr * 0.1 ** sum(step >= s for s in decay_steps)
    return lr * (1 - (step - warmup_steps) / (total_steps - warmup_steps)) ** power


def schedule_of(cfg, steps: int) -> dict:
    """Arguments of :func:`learning_rate` but the step, counted in updates of the weights; steps: batches per epoch."""
    return dict(lr=cfg.lr, total_steps=max(steps * cfg.num_epoch // cfg.gradient_acc, 1), power=cfg.lr_power,
                warmup_steps=steps * cfg.warmup_epoch // cfg.gradient_acc,
                decay_steps=tuple(steps * epoch // cfg.gradient_acc for epoch in cfg.decay_epoch))
