"""Commands of the pages, made small, and run in a copy of the project."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

from processes import run_script
from trainings import free_port

SMALL = "image_size=16 num_epoch=1 batch_size=4 workers=0 val_targets=[]"


def ready(command: str) -> str:
    """The same command, small: two processes, a free port, toy settings if it trains or extracts."""
    command = command.replace("--nproc_per_node=8", "--nproc_per_node=2").replace("22222", str(free_port()))
    if "train" in command.split("configs/")[0] and "split" not in command or "get_feature.py configs" in command:
        command += " " + SMALL
    return command


def shell(command: str, folder: Path) -> subprocess.CompletedProcess:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(["bash", "-c", command], cwd=folder, capture_output=True, text=True,
                          env=os.environ | {"PATH": path})


def run(command: str, folder: Path) -> subprocess.CompletedProcess:
    """Run a command in a shell if it has a launcher, else ``python SCRIPT ...`` in a fork, which starts faster."""
    words = shlex.split(command)
    return run_script(*words[1:], cwd=folder) if words[0] == "python" and words[1] != "-m" else shell(command, folder)
