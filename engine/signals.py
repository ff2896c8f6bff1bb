"""SIGTERM and SIGUSR1, the words of a scheduler that wants the machine back: save, and end so that it starts us again."""

import signal

import torch
import torch.distributed as dist

AGAIN = 75              # exit code of a run that was asked to end: EX_TEMPFAIL, "try again later"
SIGNALS = (signal.SIGTERM, signal.SIGUSR1)


class StopSignal:
    """Whether any rank was told to end; the same answer on all ranks at the same step.

    Used as ``with StopSignal() as stop``: other handlers are back afterwards.
    """

    def __init__(self):
        self.flag, self.work, self.told, self.heard = torch.zeros(1, dtype=torch.int32), None, 0, None

    def __enter__(self) -> "StopSignal":
        self.before = {number: signal.signal(number, self.hear) for number in SIGNALS}
        return self

    def __exit__(self, *error) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def hear(self, number: int, _frame) -> None:
        self.told = number

    def asked(self) -> str | None:
        """Name of the signal, or None; called after every step by all ranks.

        The ranks' answers are put together while the next step runs: nobody waits, and a signal is known one step later.
        """
        number = self.told
        if dist.get_world_size() > 1:
            number = 0
            if self.work is not None:
                self.work.wait()
                number = int(self.flag)
            self.flag.fill_(self.told)
            self.work = dist.all_reduce(self.flag, dist.ReduceOp.MAX, async_op=True)
        self.heard = signal.Signals(number).name if number else None
        return self.heard
