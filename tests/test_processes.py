"""A script in a fork runs as in a fresh process: same path, arguments, directory, environment, exit code and output."""

import os
import signal
import subprocess
import sys
import time
from importlib.machinery import PathFinder
from pathlib import Path

import pytest
import torch.distributed as dist
from processes import fresh_path, run_script
from ranks import on_ranks

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = [path for folder in ("BCT_Methods", "benchmarks", "tools") for path in ROOT.glob(f"{folder}/**/*.py")
           if 'if __name__ == "__main__"' in path.read_text()]

SHOW = """
import json, multiprocessing, os, sys
print(json.dumps([__name__, __file__, sys.argv, sys.path, os.getcwd(), sorted(os.environ.items()), sys.stdin.read(),
                  multiprocessing.get_start_method(), sys.stdout.isatty()]))
print("to stderr", file=sys.stderr)
"""


@pytest.mark.parametrize("pythonpath", ["", "/somewhere:/else"])
def test_a_script_in_a_fork_sees_what_it_sees_in_a_fresh_process(tmp_path, pythonpath):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    (tmp_path / "real/show.py").write_text(SHOW)
    arguments, more = ["link/show.py", "a b", "KEY=['x']"], {"PYTHONPATH": pythonpath, "MORE": "1"}
    fork = run_script(*arguments, cwd=tmp_path, env=more)
    fresh = subprocess.run([sys.executable, *arguments], cwd=tmp_path, env=os.environ | more, stdin=subprocess.DEVNULL,
                           capture_output=True, text=True)
    assert (fork.returncode, fork.stdout, fork.stderr) == (fresh.returncode, fresh.stdout, fresh.stderr)
    assert str(tmp_path / "real") in fork.stdout and "KEY=['x']" in fork.stdout


def test_the_server_has_one_thread_and_nothing_of_the_project(tmp_path):
    (tmp_path / "show.py").write_text(
        "import os, sys\n"
        "files = {name: getattr(module, '__file__', None) or '' for name, module in sys.modules.items()}\n"
        f"ours = [name for name, file in files.items() if file.startswith('{ROOT}/') and '/.venv/' not in file]\n"
        "print(len(os.listdir(f'/proc/{os.getppid()}/task')), ours, 'torch._dynamo' in sys.modules)\n")
    assert run_script(tmp_path / "show.py").stdout == "1 ['processes'] True\n"


@pytest.mark.parametrize("end, code, words", [
    ("sys.exit(75)", 75, ""), ("sys.exit('error: no')", 1, "error: no\n"), ("1 / 0", 1, "ZeroDivisionError"), ("", 0, ""),
    ("os.kill(os.getpid(), 9)", -signal.SIGKILL, ""), ("os._exit(3)", 3, "")])
def test_exit_codes(tmp_path, end, code, words):
    (tmp_path / "end.py").write_text(f"import os, sys\n{end}\n")
    done = run_script(tmp_path / "end.py")
    assert done.returncode == code and words in done.stderr and done.stdout == ""


@pytest.mark.parametrize("folder", [ROOT, *sorted({script.parent for script in SCRIPTS})], ids=lambda folder: folder.name)
def test_nothing_next_to_a_script_hides_a_package(folder):
    """A script's directory precedes Python's own on the path; a fork, which has imported most packages, would not notice."""
    names = {path.stem for path in folder.glob("*.py")} | {path.parent.name for path in folder.glob("*/__init__.py")}
    assert names and [name for name in names if name in sys.stdlib_module_names
                      or PathFinder.find_spec(name, fresh_path(""))] == []


def rank_plus_one(fails: bool) -> int:
    if fails and dist.get_rank() == 1:
        raise ValueError("rank one fails")
    total = dist.get_rank() + 1
    dist.barrier()
    return total


def test_ranks_return_in_order_and_a_failure_ends_all():
    assert on_ranks(3, rank_plus_one, False) == [1, 2, 3]
    begin = time.monotonic()
    with pytest.raises(AssertionError, match="rank [012] ended with 1\n(.|\n)*(rank one fails|Connection)"):
        on_ranks(3, rank_plus_one, True)
    assert time.monotonic() - begin < 60
