"""The results of benchmarks/gpu.py as JSON and as a markdown page, written again whenever there is more."""

import json
from dataclasses import dataclass, field
from pathlib import Path

from utils.files import write_text


@dataclass
class Result:
    """What a part has left so far.  state: in words; lines: of the worker, parsed."""

    name: str
    title: str
    state: str = "not begun"
    lines: list[dict] = field(default_factory=list)

    def all_of(self, kind: str) -> list:
        """The values of the lines of one kind: "row", "left out", "error"."""
        return [line[kind] for line in self.lines if kind in line]

    @property
    def errors(self) -> list[str]:
        """Errors of the part and of its measurements."""
        rows = [f"{in_words(row)}; {row['error']}" for row in self.all_of("row") if "error" in row]
        return [*self.all_of("error"), *rows]

    def as_json(self) -> dict:
        return {"part": self.name, "title": self.title, "state": self.state, "rows": self.all_of("row"),
                "left out": self.all_of("left out"), "errors": self.errors}

    def as_markdown(self) -> str:
        text = [f"## {self.title}", self.state[0].upper() + self.state[1:] + "."]
        rows = [{key: value for key, value in row.items() if key != "error"} for row in self.all_of("row") if "error" not in row]
        if rows:
            text.append(table(rows))
        if self.all_of("left out"):
            text.append("Left out, because the time of this part was over: "
                        + "; ".join(map(in_words, self.all_of("left out"))) + ".")
        text += [f"Error: {error}" for error in self.errors]
        return "\n\n".join(text)


def read_lines(file: Path) -> list[dict]:
    """The whole lines that a worker has written; the last one may be half written, or not there."""
    if not file.is_file():
        return []
    return [json.loads(line) for line in file.read_text().split("\n")[:-1]]


def in_words(row: dict) -> str:
    """The names of a measurement in one line."""
    return ", ".join(f"{key}: {shown(value)}" for key, value in row.items() if key != "error")


def shown(value) -> str:
    """A value in a table: three digits of a number, more before its decimal point."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return f"{value:,}" if isinstance(value, int) else str(value).replace("|", "\\|")


def table(rows: list[dict]) -> str:
    """A markdown table; its columns are all keys, in the order in which they appear."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    lines = [columns, ["---"] * len(columns), *([shown(row.get(column, "")) for column in columns] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def write_results(out: Path, about: dict, results: list[Result]) -> None:
    """Write results.json and results.md; each is complete at any time."""
    write_text(out / "results.json", json.dumps({"about": about, "parts": [result.as_json() for result in results]}, indent=1)
               + "\n")
    heading = table([{"": key, "value": value} for key, value in about.items()])
    write_text(out / "results.md", "\n\n".join(["# Measured on one machine", heading,
                                                *(result.as_markdown() for result in results)]) + "\n")
