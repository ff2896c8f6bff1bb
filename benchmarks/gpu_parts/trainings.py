"""MixBCT, BCT and L2, r18 to r50, on a real set given by its path, trained and compared by reproduce.sh's own commands."""

import json
import shutil
import subprocess
import sys
import time
from functools import partial

from benchmarks.gpu_parts.job import Cases, Job
from utils.paths import ROOT

METHODS = "MixBCT,BCT,L2"
KEPT = ("compare/compare.json", "compare/compare.txt", "compare/index.html", "log", "steps")


def cases(job: Job) -> Cases:
    yield {"methods": METHODS}, partial(trained, job)


def trained(job: Job) -> list[dict]:
    """A row for each step that was done, and one for each figure on the old gallery of the comparison."""
    out = job.folder / "reproduce"
    command = [sys.executable, "tools/reproduce/reproduce.py", "OPclass", "--family", "softmax_to_arc_f128", "--methods", METHODS,
               "--records", str(job.records), "--ijb", str(job.ijb), "--out", str(out), *job.sizes.training]
    ended = ""
    with subprocess.Popen(command, cwd=ROOT) as process:
        try:
            process.wait(max(1.0, job.deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            ended = "ended because the time of this part was over"
            process.terminate()
    for name in KEPT:
        keep(out / name, job.kept / "trainings" / name)
    if process.returncode and not ended:
        raise RuntimeError(f"reproduce.py ended with exit code {process.returncode}; the log of this part has its output")
    rows = [step_row(file) for file in sorted((out / "steps").glob("*.json"), key=lambda file: file.stat().st_mtime)]
    report = out / "compare/compare.json"
    if report.is_file():
        rows += figures(json.loads(report.read_text()))
    return rows + ([{"result": ended}] if ended else [])


def keep(source, target) -> None:
    """Copy a file or a folder that a run left, if it is there."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, target, dirs_exist_ok=True)
    elif source.is_file():
        shutil.copy(source, target)


def step_row(file) -> dict:
    record = json.loads(file.read_text())
    return {"step": file.stem, "s": record["seconds"]} if "done" in record else {"step": file.stem, "result": "not done"}


def figures(report: dict) -> list[dict]:
    """Each version's figures alone and on the old gallery, shares in [0, 1], and its verdict."""
    rows = []
    for name, cells in report["matrix"].items():
        row: dict = {"model": name}
        for gallery, words in ((name, "alone"), (report["old"], "on old")):
            row |= {f"{metric}, {words}": cells[gallery][metric]["value"] for metric in report["headline"] if gallery in cells}
        verdict = report["upgrades"].get(name, {}).get("overall")
        rows.append(row | ({"verdict": str(verdict)} if verdict else {}))
    return rows
