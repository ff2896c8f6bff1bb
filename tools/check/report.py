"""The table of the check: one row (what, found, verdict) for each thing that was looked at."""

import logging
from collections.abc import Callable
from typing import TypeVar

from prettytable import PrettyTable

from utils.errors import UserError

OK, WARNING, MISSING, WRONG = "ok", "warning", "missing", "wrong"
Row = tuple[str, str, str]
T = TypeVar("T")


class Report:
    """Rows, each one once.  An error becomes a row and does not end the check."""

    def __init__(self) -> None:
        self.rows: list[Row] = []

    def add(self, what: str, found: str, verdict: str = OK) -> None:
        if (what, found, verdict) not in self.rows:
            self.rows.append((what, found, verdict))

    def attempt(self, what: str, work: Callable[[], T]) -> T | None:
        """Result of ``work``; None if it raised an error, which becomes a row."""
        try:
            return work()
        except UserError as error:
            self.add(what, str(error), MISSING if str(error).startswith("no ") else WRONG)
        except Exception as error:          # configs and scripts are Python and can raise anything; the other rows still count
            self.add(what, f"{type(error).__name__}: {error}", WRONG)
        return None

    def row(self, what: str, look: Callable[[], tuple[str, str]]) -> bool:
        """Add a row of the (found, verdict) that ``look`` returns, or of the error that it raises; whether it returned."""
        answer = self.attempt(what, look)
        if answer is not None:
            self.add(what, *answer)
        return answer is not None

    def problems(self) -> int:
        """Number of rows that keep the training from running."""
        return sum(verdict in (MISSING, WRONG) for _, _, verdict in self.rows)

    def __str__(self) -> str:
        table = PrettyTable(["what", "found", "verdict"], align="l", max_width=100)
        table.add_rows([list(row) for row in self.rows])
        return table.get_string()


class WarningRows(logging.Handler):
    """Adds a row for each warning that the training would log."""

    def __init__(self, report: Report):
        super().__init__(logging.WARNING)
        self.report = report

    def emit(self, record: logging.LogRecord) -> None:
        self.report.add("settings", record.getMessage(), WARNING)
