"""Measurements of benchmarks/gpu.py one by one: their errors, their rows and tables, and what is computed from a profile."""

import io
import json
import math
import time
import weakref

import pytest
import torch

from benchmarks.gpu_parts import cuda_tests, trainings, worker
from benchmarks.gpu_parts.kernels import covered, kernel_rows
from benchmarks.gpu_parts.results import Result, read_lines, shown, table, write_results
from benchmarks.gpu_parts.worker import attempt, do_cases

CPU = torch.device("cpu")


class Held:
    """Something whose life a test follows."""


@pytest.mark.parametrize("error, words, key", [
    (torch.OutOfMemoryError, "CUDA out of memory. Tried to allocate 9 GiB", "result"), (MemoryError, "", "result"),
    (RuntimeError, "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate", "result"),
    (RuntimeError, "[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory", "result"),
    (RuntimeError, "CUDA error: device-side assert triggered", "error"), (ValueError, "wrong\n  shape", "error")])
def test_a_measurement_that_fails_leaves_a_row_and_no_memory(error, words, key, capsys):
    alive = []

    def measure():
        held = Held()
        alive.append(weakref.ref(held))
        held.itself = held                  # only the garbage collector frees it
        raise error(words)
    row = attempt(measure, CPU)
    assert row.keys() == {key} and (row[key] == "out of memory") == (key == "result") and "\n" not in row[key]
    assert alive[0]() is None
    assert "Traceback" in capsys.readouterr().err


def test_a_measurement_says_its_peak():
    row = attempt(lambda: {"value": len(torch.ones(8_000_000))}, CPU)
    assert row["value"] == 8_000_000 and 0.032 < row["peak, GB"] < 30


def test_no_measurement_begins_after_the_deadline():
    def cases():
        yield {"number": 1}, lambda: time.sleep(0.3) or {"value": math.nan}
        yield {"number": 2}, lambda: pytest.fail("it began")
        yield {"number": 3}, lambda: pytest.fail("it began")
    file = io.StringIO()
    do_cases(cases(), time.monotonic() + 0.2, file)
    row, *others = map(json.loads, file.getvalue().splitlines())
    assert row["row"]["number"] == 1 and row["row"]["value"] == "nan"
    assert others == [{"left out": {"number": 2}}, {"left out": {"number": 3}}]


def test_a_failure_does_not_end_the_part_and_a_measurement_may_have_several_rows():
    def cases():
        yield {"number": 1}, lambda: 1 / 0
        yield {"number": 2}, lambda: [{"value": 5}, {"value": 6}]
    file = io.StringIO()
    do_cases(cases(), time.monotonic() + 100, file)
    rows = [json.loads(line)["row"] for line in file.getvalue().splitlines()]
    assert rows == [{"number": 1, "error": "ZeroDivisionError: division by zero"}, {"number": 2, "value": 5},
                    {"number": 2, "value": 6}]


def test_without_a_gpu_a_part_on_cuda_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(worker.UserError, match="sees no GPU"):
        worker.ranks_on("cuda", None)


def test_results_as_json_and_as_a_page(tmp_path):
    lines = [{"row": {"step": "a|b", "ms": 0.012345, "classes": 93431, "half": True}}, {"row": {"step": "c", "result": "out"}},
             {"row": {"step": "d", "error": "E: no"}}, {"left out": {"step": "e", "batch": 256}}, {"end": 3.0}]
    write_results(tmp_path, {"torch": "2"}, [Result("steps", "Steps", "rows: 3, in 3 s of 9 s", lines), Result("next", "Next")])
    assert json.loads((tmp_path / "results.json").read_text()) == {"about": {"torch": "2"}, "parts": [
        {"part": "steps", "title": "Steps", "state": "rows: 3, in 3 s of 9 s", "rows": [line["row"] for line in lines[:3]],
         "left out": [{"step": "e", "batch": 256}], "errors": ["step: d; E: no"]},
        {"part": "next", "title": "Next", "state": "not begun", "rows": [], "left out": [], "errors": []}]}
    page = (tmp_path / "results.md").read_text()
    assert "| step | ms | classes | half | result |\n| --- | --- | --- | --- | --- |\n" in page
    assert "| a\\|b | 0.0123 | 93,431 | yes |  |\n| c |  |  |  | out |\n\n" in page
    assert "Left out, because the time of this part was over: step: e, batch: 256.\n\nError: step: d; E: no\n\n## Next" in page


@pytest.mark.parametrize("value, text", [(1234.56, "1,235"), (99.96, "100"), (12.345, "12.3"), (0.00012345, "0.000123"),
                                         (5_000_000, "5,000,000"), (False, "no"), ("r50", "r50")])
def test_numbers_in_a_table(value, text):
    assert shown(value) == text
    assert table([{"a": value}]) == f"| a |\n| --- |\n| {text} |"


def test_a_half_written_line_is_not_read(tmp_path):
    file = tmp_path / "lines"
    assert read_lines(file) == []
    file.write_text('{"row": 1}\n{"row": 2')
    assert read_lines(file) == [{"row": 1}]


def test_kernels_by_hand():
    assert covered([(5.0, 7.0), (0.0, 2.0), (1.0, 3.0), (1.5, 1.75), (7.0, 7.5)]) == 3 + 2.5
    assert covered([(0.0, 4.0), (1.0, 2.0), (3.0, 5.0)]) == 5               # one inside another
    # Two steps of 5 microseconds: gemm 0-3 and 6-8, norm 2-4 on another stream: 6 of 10 microseconds are covered.
    events = [{"name": "gemm", "ts": 0, "dur": 3}, {"name": "norm", "ts": "2", "dur": 2}, {"name": "gemm", "ts": 6, "dur": 2}]
    *rows, both = kernel_rows(events, 2, 5e-6)
    assert [row["kernel"] for row in rows] == ["gemm", "norm"]
    assert [row["calls a step"] for row in rows] == [1, 0.5]
    assert [row["ms a step"] for row in rows] == pytest.approx([2.5e-3, 1e-3])
    assert [row["share of the step"] for row in rows] == pytest.approx([0.5, 0.2])
    assert both == {"kernel": "all 2 kernels", "calls a step": 1.5, "ms a step": pytest.approx(3e-3),
                    "share of the step": pytest.approx(0.6), "idle": pytest.approx(0.4)}
    with pytest.raises(ValueError, match="recorded no kernel"):
        kernel_rows([], 2, 1.0)


def test_only_the_ten_longest_kernels_are_named():
    events = [{"name": f"k{length}", "ts": 100 * length, "dur": length} for length in range(1, 13)]
    rows = kernel_rows(events, 1, 1.0)
    assert [row["kernel"] for row in rows] == [f"k{length}" for length in range(12, 2, -1)] + ["all 12 kernels"]


def test_what_pytest_said():
    text = "F.s\n=== short test summary info ===\nFAILED tests/a.py::b - AssertionError\n=== 1 failed, 1 passed in 2.00s ===\n"
    assert cuda_tests.outcome(1, text) == [{"result": "1 failed, 1 passed in 2.00s"},
                                           {"result": "failed: tests/a.py::b - AssertionError"}]
    assert cuda_tests.outcome(0, "..\n2 passed in 1s\n") == [{"result": "2 passed in 1s"}]
    assert cuda_tests.outcome(5, "") == [{"result": "no test has the marker cuda"}]
    with pytest.raises(RuntimeError, match="exit code 4: ERROR: no such folder"):
        cuda_tests.outcome(4, "ERROR: no such folder\n\n")


def test_figures_of_a_comparison():
    def cells(**values: float) -> dict:
        return {name: {"top-1": {"value": value, "interval": None}} for name, value in values.items()}
    matrix = {"old": cells(old=0.4), "L2": cells(old=0.5, L2=0.6, paragon=0.1), "other": cells(other=0.7)}
    report = {"old": "old", "headline": ["top-1"], "matrix": matrix, "upgrades": {"L2": {"overall": "compatible"}}}
    assert trainings.figures(report) == [
        {"model": "old", "top-1, alone": 0.4, "top-1, on old": 0.4},
        {"model": "L2", "top-1, alone": 0.6, "top-1, on old": 0.5, "verdict": "compatible"},
        {"model": "other", "top-1, alone": 0.7}]


@pytest.mark.parametrize("text, row", [('{"done": 1.5, "seconds": 20.5}', {"step": "old", "s": 20.5}),
                                       ('{"command": []}', {"step": "old", "result": "not done"})])
def test_a_step_of_the_trainings(tmp_path, text, row):
    (tmp_path / "old.json").write_text(text)
    assert trainings.step_row(tmp_path / "old.json") == row
