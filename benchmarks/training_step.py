"""A training step of this project against a plain PyTorch step, in one run: images per second.

    python benchmarks/training_step.py [--network r18] [--size 112] [--batch 16]

Plain: fp32, contiguous, eager, the optimiser's loop over tensors.  Here: half precision where the device has it,
channels_last, fused optimiser.  Rounds alternate; medians are printed.
"""

import argparse
import statistics
import sys
import time
from pathlib import Path

import torch
from prettytable import PrettyTable

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from backbones import get_model
from backbones.precision import half_precision
from utils.errors import run
from utils.images import to_input


def make_step(args, device: torch.device, ours: bool):
    """A function that does one step: uint8 images in, weights updated."""
    model = get_model(args.network, fp16=ours, num_features=128, image_size=args.size).to(device).train()
    if ours:
        model.to(memory_format=torch.channels_last)
    way = dict(fused=True) if ours else dict(foreach=False, fused=False)
    optimizer = torch.optim.SGD(model.parameters(), 0.01, 0.9, weight_decay=5e-4, **way)
    head = torch.nn.Linear(128, 1000).to(device)
    images = torch.randint(256, (args.batch, args.size, args.size, 3), dtype=torch.uint8)
    labels = torch.randint(1000, (args.batch,), device=device)

    def step() -> None:
        x = to_input(images, device)
        new = model(x if ours else x.contiguous())
        torch.nn.functional.cross_entropy(head(new), labels).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if device.type == "cuda":
            torch.cuda.synchronize()
    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0],
                                     formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--network", default="r18", help="one of backbones.NETWORKS")
    parser.add_argument("--size", type=int, default=112, help="pixels of an image's side")
    parser.add_argument("--batch", type=int, default=16, help="images per step")
    parser.add_argument("--rounds", type=int, default=5, help="measurements of each, in turn")
    args = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    steps = {"plain fp32, contiguous": make_step(args, device, False), "this project": make_step(args, device, True)}
    speeds = {name: [] for name in steps}
    for step in steps.values():
        step()
    for _ in range(args.rounds):
        for name, step in steps.items():
            begin = time.perf_counter()
            step()
            speeds[name].append(args.batch / (time.perf_counter() - begin))
    plain = statistics.median(speeds["plain fp32, contiguous"])
    what = f"{args.network}, {args.size}x{args.size}, batch {args.batch}"
    table = PrettyTable([what, "images/s", "ratio"], align="r")
    for name, values in speeds.items():
        table.add_row([name, f"{statistics.median(values):.2f}", f"{statistics.median(values) / plain:.2f}"])
    print(table)
    name = torch.cuda.get_device_name() if device.type == "cuda" else torch.cpu.get_capabilities()["cpu_name"]
    print(f"torch {torch.__version__}, {device.type} ({name}), half precision: {half_precision(device)}, "
          f"{torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}")


if __name__ == "__main__":
    run(main)
