"""Cost of config.deterministic, and whether runs repeat to the bit with and without it.

    python benchmarks/determinism.py [--network r18] [--batch 32]

Trains on random images with the default settings, several times with each value, in turn; images/s are those of the log's last
line, in whole numbers.
"""

import re
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from prettytable import PrettyTable

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from backbones.weights import load_state
from utils.command_line import Parser
from utils.errors import run

ROOT = Path(__file__).resolve().parents[1]


def train(args, folder: Path, deterministic: bool) -> tuple[float, dict]:
    """(images per second, weights) of one short training."""
    subprocess.run([sys.executable, "train_old_arc.py", "configs/f512_r18_arc_class30.py", "rec=synthetic", "num_epoch=1",
                    f"num_image={args.steps * args.batch}", "num_classes=1000", f"batch_size={args.batch}", "val_targets=[]",
                    f"network={args.network}", f"frequent={args.steps // 2}", f"deterministic={deterministic}",
                    f"output={folder}"], cwd=ROOT, check=True, stderr=subprocess.DEVNULL)
    speeds = re.findall(r"(\d+) images/s", (folder / "training.log").read_text())
    return float(speeds[-1]), load_state(folder / "model.pt")


def main() -> None:
    parser = Parser(__doc__)
    parser.add_argument("--network", default="r18", help="one of backbones.NETWORKS")
    parser.add_argument("--batch", type=int, default=32, help="images per step")
    parser.add_argument("--steps", type=int, default=20, help="steps of each training")
    parser.add_argument("--rounds", type=int, default=3, help="trainings with each value, in turn; at least 2")
    args = parser.parse_args()
    found = {False: [], True: []}
    with tempfile.TemporaryDirectory() as folder:
        for turn in range(args.rounds):
            for deterministic, values in found.items():
                values.append(train(args, Path(folder) / f"{turn}_{deterministic}", deterministic))
    table = PrettyTable([f"{args.network}, batch {args.batch}", "images/s", "ratio to False", "the same bits"], align="r")
    speed = {setting: statistics.median(value for value, _ in values) for setting, values in found.items()}
    for setting, values in found.items():
        first = values[0][1]
        same = all(torch.equal(first[name], state[name]) for _, state in values[1:] for name in first)
        table.add_row([f"deterministic = {setting}", f"{speed[setting]:.0f}", f"{speed[setting] / speed[False]:.2f}",
                       "yes" if same else "no"])
    print(table)


if __name__ == "__main__":
    run(main)
