"""SIGTERM, SIGUSR1 and SIGHUP: a scheduler needs the machine, or the terminal was closed.  Save, and end with an exit code that
means "start again".
"""

import signal

import torch
import torch.distributed as dist

EXIT_AGAIN = 75         # exit code of a run that a signal ended: EX_TEMPFAIL, "try again later"
SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP)


class StopSignal:
    """Whether any rank received a signal to end; the same answer on all ranks at the same step.

    Used as ``with StopSignal() as stop``: the former handlers are restored afterwards.
    """

    def __init__(self):
        self.flag, self.received = torch.zeros(1, dtype=torch.int32), 0
        self.work: dist.Work | None = None
        self.heard: str | None = None

    def __enter__(self) -> "StopSignal":
        nohup = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN           # the run is meant to outlive its terminal
        self.before = {number: signal.signal(number, self.hear) for number in SIGNALS if not (nohup and number == signal.SIGHUP)}
        return self

    def __exit__(self, *error) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def hear(self, number: int, _frame) -> None:
        self.received = number

    def asked(self) -> str | None:
        """Name of the signal, or None; called after every step.  A collective.

        The ranks exchange their answers while the next step runs: no rank waits, and all know of a signal one step later.
        """
        number = self.received
        if dist.get_world_size() > 1:
            number = 0
            if self.work is not None:
                self.work.wait()
                number = int(self.flag)
            self.flag.fill_(self.received)
            self.work = dist.all_reduce(self.flag, dist.ReduceOp.MAX, async_op=True)
        self.heard = signal.Signals(number).name if number else None
        return self.heard

    def finish(self) -> None:
        """Wait for the last exchange, so that no collective is under way when the process group ends.  A collective."""
        if self.work is not None:
            self.work.wait()
            self.work = None
