"""Does a test fail for each one-line fault?  The faults of tests/mutations/*.txt are applied to a copy of the repository.

    python tests/mutate.py                      all areas, two faults at a time (about 80 faults a minute on 2 cores)
    python tests/mutate.py engine methods       two areas
    python tests/mutate.py engine:7 -v          the seventh fault of an area, with the output of pytest

Each area is a file of blocks: the changed file and the tests that must fail, then the line before and after the change.

    engine/trainer.py: tests/engine/test_step.py
    - loss = sum(terms.values())
    + loss = terms["cls"]

``engine/trainer.py #2: ...`` is the second of several equal lines.  A missing line is an error, and so are tests that fail
without a fault.  The tests see nothing outside the copy.  Exit code 0: every fault is caught.
"""

import argparse
import gc
import importlib
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from multiprocessing import forkserver
from pathlib import Path
from queue import Queue

ROOT = Path(__file__).resolve().parents[1]
SECONDS = 300           # limit for the tests of one fault; a fault that makes them hang is caught, too
SECONDS_TO_STOP = 20    # limit for pytest to end the processes of its tests after that


@dataclass(frozen=True)
class Mutation:
    """One fault.  number: its place in its area, from 1; which: the occurrence of ``before`` in the file, 0 = the only one."""

    area: str
    number: int
    file: str
    before: str
    after: str
    tests: str
    which: int = 0

    def apply(self, copy: Path) -> str | None:
        """Write the fault into the file below ``copy``.  Returns the reason if that is not possible, else None."""
        path = copy / self.file
        if not path.is_file():
            return "no such file"
        lines = path.read_text().splitlines(keepends=True)
        places = [i for i, line in enumerate(lines) if line.strip() == self.before.strip()]
        if len(places) < max(self.which, 1) or self.which == 0 and len(places) > 1:
            return f"the line occurs {len(places)} times"
        place = places[max(self.which, 1) - 1]
        indentation = lines[place][:len(lines[place]) - len(lines[place].lstrip())]
        lines[place] = f"{indentation}{self.after}\n"
        path.write_text("".join(lines))
        return None


def read_mutations(names: list[str]) -> Iterator[Mutation]:
    """The faults of the areas ``names`` (all if empty); AREA:NUMBER chooses one."""
    chosen = [name.partition(":")[::2] for name in names]
    for file in sorted((ROOT / "tests/mutations").glob("*.txt")):
        blocks = [block.splitlines() for block in file.read_text().split("\n\n")[1:]]         # the first one describes the area
        for number, (heading, before, after) in enumerate(blocks, 1):
            if not chosen or any(area == file.stem and which in ("", str(number)) for area, which in chosen):
                place, _, tests = heading.partition(": ")
                name, _, occurrence = place.partition(" #")
                yield Mutation(file.stem, number, name, before.removeprefix("- "), after.removeprefix("+ "), tests,
                               int(occurrence or 0))


def copy_repository(folder: Path) -> Path:
    """The files of the repository, tracked and new ones, below ``folder``."""
    copy = folder / "repository"
    listed = subprocess.run(["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=ROOT, check=True,
                            capture_output=True, text=True).stdout
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).exists():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, copy / name, follow_symlinks=False)
    return copy


def run_tests(copy: str, tests: str, output: str) -> None:
    """Run tests in this process, which then ends with pytest's exit code."""
    gc.freeze()                 # a collection would otherwise copy the memory that this process shares with the server
    # Processes of the tests are forks of the same server, instead of a server of their own.
    forkserver._forkserver.ensure_running = lambda: None            # type: ignore[method-assign]
    signal.signal(signal.SIGINT, signal.default_int_handler)        # a shell's background job ignores it
    os.chdir(copy)
    sys.path[:] = [copy, *(entry for entry in sys.path if not entry.startswith(str(ROOT / "tests")))]
    sys.stdout.flush()
    os.dup2(os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 1)
    os.dup2(1, 2)
    import pytest
    os._exit(int(pytest.main(["-q", "-x", "-p", "no:cacheprovider", *tests.split()])))


def exit_code(copy: Path, tests: str) -> tuple[int | None, str]:
    """(pytest's exit code, None if it took too long; what it printed)."""
    output = copy.with_name("output.txt")
    process = multiprocessing.get_context("forkserver").Process(target=run_tests, args=(str(copy), tests, str(output)))
    process.start()
    process.join(SECONDS)
    code = process.exitcode
    if code is None and process.pid is not None:
        os.kill(process.pid, signal.SIGINT)     # pytest then ends the processes that its tests started
        process.join(SECONDS_TO_STOP)
        process.kill()
        process.join()
    return code, output.read_text()


def start_server() -> None:
    """Start the server whose forks run the tests: it imports packages once, and nothing of the project."""
    os.environ |= {"OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}     # a stale .pyc would hide a fault
    sys.path.insert(0, str(ROOT))
    for name in ("processes", "utils.opencv"):      # the first names the packages, the second sets OpenCV's limit
        importlib.import_module(name)
    stderr = os.dup(2)          # not the server's: processes that the tests start would print their tracebacks there
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    forkserver.ensure_running()
    os.dup2(stderr, 2)


def verdict_of(mutation: Mutation, copies: "Queue[Path]") -> tuple[str, str]:
    """(verdict, what pytest printed); the verdict starts with "caught" if the tests failed, else it says what is wrong."""
    copy, begin = copies.get(), time.monotonic()
    try:
        original = (copy / mutation.file).read_text() if (copy / mutation.file).is_file() else ""
        problem = mutation.apply(copy)
        if problem:
            return f"GONE: {problem}", ""
        code, printed = exit_code(copy, mutation.tests)
        (copy / mutation.file).write_text(original)
    finally:
        copies.put(copy)
    verdicts: dict[int | None, str] = {None: "caught (the tests did not end)", 0: "SURVIVED", 1: "caught"}
    return f"{verdicts.get(code, f'ERROR: pytest ended with exit code {code}')}  {time.monotonic() - begin:.0f} s", printed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("areas", nargs="*", metavar="AREA[:NUMBER]", help="areas of tests/mutations (default: all)")
    parser.add_argument("--jobs", type=int, default=2, help="faults at a time (default: 2)")
    parser.add_argument("-v", "--verbose", action="store_true", help="show the output of pytest if no test failed")
    args = parser.parse_args()
    mutations = list(read_mutations(args.areas))
    if not mutations:
        parser.error(f"no mutation {' '.join(args.areas)} in tests/mutations")
    start_server()
    begin = time.monotonic()
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(args.jobs) as pool:
        copies: Queue[Path] = Queue()
        for job in range(args.jobs):
            copies.put(copy_repository(Path(folder) / str(job)))
        tests = " ".join(dict.fromkeys(" ".join(mutation.tests for mutation in mutations).split()))
        copy = copies.get()
        code, printed = exit_code(copy, tests)
        copies.put(copy)
        if code != 0:
            sys.exit(f"{printed}\nerror: the tests fail without a fault (exit code {code}); mend them first")
        caught = 0
        verdicts = pool.map(lambda mutation: verdict_of(mutation, copies), mutations)
        for mutation, (verdict, printed) in zip(mutations, verdicts, strict=True):
            caught += verdict.startswith("caught")
            print(f"{mutation.area}:{mutation.number}  {verdict}  {mutation.file}: {mutation.after}", flush=True)
            if args.verbose and not verdict.startswith("caught"):
                print(printed)
    print(f"{caught} of {len(mutations)} caught in {(time.monotonic() - begin) / 60:.1f} minutes")
    sys.exit(caught < len(mutations))


if __name__ == "__main__":
    main()
