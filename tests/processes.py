"""Processes that start within milliseconds: forks of one server, which has imported torch and the other packages.

The server has one thread, so that a fork is safe (onnxruntime 1.32 would start another), and has imported nothing of the
project: each process imports it from its own path. A fork shares the server's hash seed and its imported packages;
test_commands.py starts real processes to test the launchers and the modules that a script's directory could hide.
"""

import functools
import multiprocessing
import os
import subprocess
import sys
import tempfile
import types
from pathlib import Path

import numpy as np

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload([
    "pytest", "hypothesis", "torch._dynamo", "torch.distributed.run", "torch.utils.tensorboard", "torch.onnx", "cv2", "easydict",
    "matplotlib.pyplot", "onnx", "prettytable", "sklearn.metrics", "tqdm"])


def start(function, *args) -> multiprocessing.Process:
    """Call ``function(*args)`` in a process; the function must be importable."""
    process = CONTEXT.Process(target=_call, args=(function, args))
    process.start()
    return process


def _call(function, args) -> None:
    np.random.seed()                    # Python's own generator does this by itself
    function(*args)


def start_script(script: Path, *arguments, cwd: Path, env: dict[str, str], folder: Path) -> multiprocessing.Process:
    """Start ``python script arguments``; its output goes to folder/stdout and folder/stderr."""
    os.makedirs(folder, exist_ok=True)
    path = [os.path.dirname(os.path.realpath(Path(cwd, script))), *fresh_path(env.get("PYTHONPATH", ""))]
    return start(_script, [str(script), *map(str, arguments)], os.path.abspath(cwd), env, path, str(folder))


def run_script(script: Path, *arguments, cwd: Path = ".", env: dict[str, str] | None = None) -> subprocess.CompletedProcess:
    """Run ``python script arguments`` to its end; env: additions to this process's environment."""
    with tempfile.TemporaryDirectory() as folder:
        process = start_script(script, *arguments, cwd=cwd, env=os.environ | (env or {}), folder=folder)
        process.join()
        return subprocess.CompletedProcess([script, *arguments], process.exitcode,
                                           *(Path(folder, name).read_text() for name in ("stdout", "stderr")))


@functools.cache
def fresh_path(pythonpath: str) -> list[str]:
    """sys.path of a new interpreter without its first entry, the script's directory."""
    code = "import sys; print(*sys.path[1:], sep='\\n')"
    return subprocess.run([sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": pythonpath}, capture_output=True,
                          text=True, check=True).stdout.splitlines()


def _script(arguments: list[str], cwd: str, env: dict[str, str], path: list[str], folder: str) -> None:
    for number, name in ((1, "stdout"), (2, "stderr")):
        os.dup2(os.open(f"{folder}/{name}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    sys.argv, sys.path[:] = arguments, path
    multiprocessing.set_start_method(None, force=True)      # not forkserver, which is the default in this process only
    main = sys.modules["__main__"] = types.ModuleType("__main__")
    main.__file__ = os.path.abspath(arguments[0])
    exec(compile(Path(main.__file__).read_bytes(), main.__file__, "exec"), main.__dict__)
