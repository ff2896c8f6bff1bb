"""The commands that run now, which end with this process: a signal to it is passed on to them as SIGTERM."""

import signal
import subprocess
from pathlib import Path

from utils.errors import UserError

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class Commands:
    """Starts commands, and ends them at a signal: a training saves its state and ends, everything else ends at once.

    Used as ``with Commands() as commands`` in the main thread: the former handlers are restored afterwards.
    """

    def __init__(self):
        self.running: set[subprocess.Popen[str]] = set()
        self.name = ""          # of the signal that was received

    def __enter__(self) -> "Commands":
        nohup = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN           # the run is meant to outlive its terminal
        self.before = {number: signal.signal(number, self.stop) for number in SIGNALS if not (nohup and number == signal.SIGHUP)}
        return self

    def __exit__(self, *error) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def stop(self, number: int, _frame) -> None:
        self.name = signal.Signals(number).name
        for process in list(self.running):
            process.terminate()

    def start(self, command: list[str], folder: Path, environment: dict, lock: tuple[int, ...]) -> subprocess.Popen[str]:
        """The command, started in ``folder``; its stdout has its stderr, too.  lock: open files that it keeps.  UserError after a
        signal.
        """
        # Ctrl-C reaches every process of the terminal, and a training would end without saving: it gets SIGTERM from stop().
        # A thread's blocked signals are those of the processes that it starts.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        self.refuse_after_signal()
        process = subprocess.Popen(command, cwd=folder, env=environment, text=True, errors="replace", pass_fds=lock,
                                   stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        self.running.add(process)
        if self.name:                   # the signal came while the command was started
            process.terminate()
        return process

    def wait(self, process: subprocess.Popen) -> int:
        """The exit code of a command that has closed its output.  UserError after a signal."""
        code = process.wait()
        self.running.discard(process)
        self.refuse_after_signal()
        return code

    def refuse_after_signal(self) -> None:
        if self.name:
            raise UserError(f"ended by {self.name}; start reproduce.sh again to continue where it stopped")
