"""benchmarks/gpu.sh: all of it with tiny sizes on the CPU, its refusals, and how its parts share the time."""

import json
import os
import subprocess
import sys
import time
import types
import zipfile
from pathlib import Path

import pytest
import torch

from benchmarks.gpu import carry, wheels_in
from benchmarks.gpu_parts import plan
from benchmarks.gpu_parts.job import DRY
from benchmarks.gpu_parts.plan import PARTS, Part, Run
from benchmarks.gpu_parts.results import Result
from utils.errors import UserError

ROOT = Path(__file__).resolve().parents[2]


def gpu_sh(*arguments, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(["bash", ROOT / "benchmarks/gpu.sh", *arguments], capture_output=True, text=True,
                          env=os.environ | environment)


@pytest.mark.long
def test_every_part_measures_on_a_cpu(tmp_path):
    done = gpu_sh("--device", "cpu", "--dry", "--minutes", "30", "--out", tmp_path)      # enough on a busy machine
    assert done.returncode == 0, done.stdout + done.stderr
    results = json.loads((tmp_path / "results.json").read_text())
    assert {"torch", "CUDA", "cuDNN", "card", "processor", "commit", "date", "command"} <= results["about"].keys()
    *parts, trainings = results["parts"]
    assert [part["part"] for part in results["parts"]] == [part.name for part in PARTS]
    for part in parts:
        assert part["rows"] and not part["errors"] and not part["left out"], part
        assert "nan" not in json.dumps(part["rows"]), part
    assert not trainings["rows"] and "no --records" in trainings["state"]
    rows = {part["part"]: part["rows"] for part in parts}
    assert len(rows["steps"]) == 5 and len(rows["methods"]) == 7 and len(rows["embedding"]) == 9 and len(rows["heads"]) == 6
    assert all(row["images/s"] > 0 and row["share of peak"] > 0 and row["share of copy speed"] > 0 for row in rows["steps"])
    text = (tmp_path / "results.md").read_text()
    assert all(f"## {part.title}\n" in text for part in PARTS)
    assert (tmp_path / "trace.json.gz").stat().st_size > 0


@pytest.mark.long
@pytest.mark.parametrize("arguments, words", [
    (["--parts", "steps,stpes"], "there is no part 'stpes'"), (["--records", "here"], "belong together"),
    (["--minutes", "0"], "expected 0.1 or more"), (["--wheels", "/nowhere"], "expected .whl files")])
def test_refusals(tmp_path, arguments, words):
    done = gpu_sh("--device", "cpu", "--dry", "--out", tmp_path / "out", *arguments)
    assert done.returncode in (1, 2) and words in done.stderr and not (tmp_path / "out").exists()


@pytest.mark.long
def test_results_are_not_overwritten(tmp_path):
    (tmp_path / "results.json").write_text("{}")
    done = gpu_sh("--device", "cpu", "--dry", "--out", tmp_path)
    assert done.returncode == 1 and "an earlier run" in done.stderr and (tmp_path / "results.json").read_text() == "{}"


@pytest.mark.long
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so(tmp_path):
    done = gpu_sh("--out", tmp_path)
    assert done.returncode == 1 and "sees no GPU" in done.stderr and not (tmp_path / "results.json").exists()


def test_carried_wheels_are_imported_here_and_in_processes_that_are_started(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", sys.path.copy())
    monkeypatch.setenv("PYTHONPATH", "/somewhere")
    for number in (1, 2):
        with zipfile.ZipFile(tmp_path / f"package{number}-1.0-py3-none-any.whl", "w") as wheel:
            wheel.writestr(f"carried{number}.py", f"value = {number}")
    carry(wheels_in(tmp_path), tmp_path / "unpacked")
    import carried1
    code = "import sys, carried2; print(carried2.value, '/somewhere' in sys.path)"
    assert carried1.value == 1 and subprocess.check_output([sys.executable, "-c", code], text=True) == "2 True\n"


def test_wheels_that_cannot_be_carried(tmp_path):
    with pytest.raises(UserError, match=r"expected \.whl files"):
        wheels_in(tmp_path)
    (tmp_path / "half.whl").write_bytes(b"PK")
    with pytest.raises(UserError, match=r"half\.whl is not a whole"):
        wheels_in(tmp_path)


def part_of(monkeypatch, cases, seconds: int = 8, name: str = "made_up") -> Part:
    """A part whose measurements are ``cases``."""
    module = types.ModuleType(f"benchmarks.gpu_parts.{name}")
    module.cases = cases
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return Part(name, name, seconds, f"The part {name}")


def run_of(tmp_path, seconds: float = 8.0, **more) -> Run:
    (tmp_path / "scratch").mkdir()
    (tmp_path / "out/log").mkdir(parents=True)
    return Run("cpu", DRY, seconds, tmp_path / "out", tmp_path / "scratch", more.get("records"), more.get("ijb"))


def done_alone(tmp_path, part: Part, seconds: float) -> Result:
    result = Result(part.name, part.title)
    run_of(tmp_path).do(part, result, time.monotonic() + seconds, lambda: None)
    return result


def test_a_process_that_dies_leaves_its_rows(tmp_path, monkeypatch):
    def cases(job):
        yield {"number": 1}, lambda: {"value": 5}
        yield {"number": 2}, lambda: os._exit(3)
    result = done_alone(tmp_path, part_of(monkeypatch, cases), 30)
    assert [(row["number"], row["value"]) for row in result.all_of("row")] == [(1, 5)]
    assert result.errors == ["the process of this part ended with exit code 3"]


@pytest.mark.long
def test_a_part_that_hangs_is_ended_with_all_that_it_started(tmp_path, monkeypatch):
    monkeypatch.setattr(plan, "GRACE", 0.5)
    number = tmp_path / "number"

    def hang() -> None:
        process = subprocess.Popen(["sleep", "600"])
        number.write_text(str(process.pid))
        process.wait()

    def cases(job):
        yield {"number": 1}, lambda: {"value": 5}
        yield {"number": 2}, hang
    begin = time.monotonic()
    result = done_alone(tmp_path, part_of(monkeypatch, cases), 5.0)
    assert time.monotonic() - begin < 30
    assert len(result.all_of("row")) == 1 and "its time was over" in result.state and not result.errors
    status = Path(f"/proc/{number.read_text()}/status")
    assert not status.exists() or "zombie" in status.read_text()


def test_a_part_that_cannot_begin_says_why(tmp_path, monkeypatch):
    result = done_alone(tmp_path, Part("gone", "not_there", 8, "Not there"), 30)
    assert len(result.errors) == 1 and "not_there" in result.errors[0] and result.all_of("end")


def test_parts_share_the_time_and_inherit_what_is_left(tmp_path, monkeypatch):
    seen = {}

    def do(self, part, result, deadline, changed):
        seen[part.name] = deadline - begin
    monkeypatch.setattr(Run, "do", do)
    parts = [Part("a", "a", 1, ""), Part("data", "d", 9, "", on_real_data=True), Part("b", "b", 3, "")]
    begin = time.monotonic()
    _, results = run_of(tmp_path, 80.0)(parts)
    assert (seen["a"], seen["b"]) == (pytest.approx(20, abs=2), pytest.approx(80, abs=2)) and "data" not in seen
    assert "no --records" in results[1].state


def test_parts_on_real_data_are_done_if_it_is_given(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(Run, "do", lambda self, part, *_: seen.append(part.name))
    run_of(tmp_path, records=tmp_path, ijb=tmp_path)([Part("data", "d", 9, "", on_real_data=True)])
    assert seen == ["about", "data"]


def test_the_seconds_of_the_parts_are_those_of_eight_minutes():
    assert sum(part.seconds for part in PARTS) == 8 * 60
