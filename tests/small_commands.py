"""Commands of the pages, made small, and run in a copy of the project."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

from processes import run_script
from trainings import free_port

SMALL = "network=cnn_s image_size=16 num_epoch=1 batch_size=4 workers=0 val_targets=[]"
LAUNCHERS = ("python -m torch.distributed.launch --nproc_per_node=8 --nnodes=1 --master_port=22222 ",
             "torchrun --nproc_per_node=8 ")


def ready(command: str) -> str:
    """The same command, small: a small network, two processes, a free port, toy settings if it trains or extracts."""
    command = re.sub(r"(-net[= ]|-old_net[= ]|:|network=)r(18|50|100)\b", r"\1cnn_s", command)
    command = command.replace("--nproc_per_node=8", "--nproc_per_node=2").replace("22222", str(free_port()))
    if "train" in command.split("configs/")[0] and "split" not in command or "get_feature.py configs" in command:
        command += " " + SMALL
    return command


def in_one_process(command: str) -> str:
    """The same command without a launcher: a test of the method's training starts each of them with just these options."""
    for launcher in LAUNCHERS:
        command = command.replace(launcher, "python ")
    return command


def shell(command: str, folder: Path) -> subprocess.CompletedProcess:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(["bash", "-c", command], cwd=folder, capture_output=True, text=True,
                          env=os.environ | {"PATH": path})


def run(command: str, folder: Path) -> subprocess.CompletedProcess:
    """Run a command in a shell if it has a launcher, else ``[cd DIR &&] python SCRIPT ...`` in a fork, which starts faster."""
    change, script = re.fullmatch(r"(?:cd (\S+) && )?(.*)", command, re.DOTALL).groups()
    words = shlex.split(script)
    if words[0] == "python" and words[1] != "-m" and "&&" not in words:
        return run_script(*words[1:], cwd=folder / (change or ""))
    return shell(command, folder)
