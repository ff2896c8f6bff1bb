"""Images per second of a training step of this project and of a plain PyTorch step, measured in one run.

    python benchmarks/training_step.py [--networks r18 r50] [--batches 32 64] [--each] [--compile]

Plain: fp32, contiguous, eager, an optimiser that loops over tensors.  This project: half precision if the device has it,
channels_last, fused optimiser, and on a CPU freed memory is kept.  --each adds these one after the other.  Each measurement runs
in a new process; rounds alternate, medians are printed.  Share of peak: floating-point operations of the step's products and
convolutions per second, divided by those of a large product in the same precision.
"""

import argparse
import statistics
import sys
from pathlib import Path

import torch
from prettytable import PrettyTable
from torch.utils.flop_counter import FlopCounterMode

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from backbones import get_model
from benchmarks.measure import in_a_process, product_speed, seconds
from records.images import to_input
from utils.errors import run
from utils.memory import keep_freed_memory
from utils.precision import half_precision

PLAIN, OURS = "plain fp32, contiguous, eager", "this project"
TRICKS = ("channels_last", "half precision", "fused optimiser", "freed memory kept", "compiled")
WAYS = {PLAIN: 0, "+ channels_last": 1, "+ half precision": 2, "+ fused optimiser": 3, OURS: 4, "compiled": 5}
STEPS = 3


def make_step(network: str, size: int, batch: int, tricks: tuple[str, ...], device: torch.device):
    """A function that does one step, from uint8 images to updated weights."""
    model = get_model(network, fp16="half precision" in tricks, num_features=128, image_size=size).to(device).train()
    if "channels_last" in tricks:
        model.to(memory_format=torch.channels_last)
    if "freed memory kept" in tricks and device.type == "cpu":
        keep_freed_memory()
    way = dict(fused=True) if "fused optimiser" in tricks else dict(foreach=False, fused=False)
    optimizer = torch.optim.SGD(model.parameters(), 0.01, 0.9, weight_decay=5e-4, **way)
    head = torch.nn.Linear(128, 1000).to(device)
    images = torch.randint(256, (batch, size, size, 3), dtype=torch.uint8)
    labels = torch.randint(1000, (batch,), device=device)
    run_model = torch.compile(model) if "compiled" in tricks else model

    def step() -> None:
        x = to_input(images, device)
        new = run_model(x if "channels_last" in tricks else x.contiguous())
        torch.nn.functional.cross_entropy(head(new), labels).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return step


def measure(network: str, size: int, batch: int, tricks: tuple[str, ...]) -> tuple[float, float]:
    """(seconds of the first step, median seconds of the next)."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    step = make_step(network, size, batch, tricks, device)
    first = seconds(step, device)
    return first, statistics.median(seconds(step, device) for _ in range(STEPS))


def operations(network: str, size: int, device: torch.device) -> float:
    """Floating-point operations per image of a step."""
    step = make_step(network, size, 2, (), device)
    with FlopCounterMode(display=False) as counter:
        step()
    return counter.get_total_flops() / 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0],
                                     formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--networks", nargs="+", default=["r18"], help="names of backbones.NETWORKS")
    parser.add_argument("--size", type=int, default=112, help="height and width of an image in pixels")
    parser.add_argument("--batches", type=int, nargs="+", default=[32], help="images per step")
    parser.add_argument("--rounds", type=int, default=3, help="measurements of each step, in turn")
    parser.add_argument("--each", action="store_true", help="add one thing after the other")
    parser.add_argument("--compile", action="store_true", help="also measure torch.compile of the backbone")
    args = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    half = half_precision(device)
    ways = [name for name, count in WAYS.items() if args.each or count in (0, 4) or (args.compile and count == 5)]
    ways = [name for name in ways if args.compile or name != "compiled"]
    peaks = {dtype: product_speed(dtype, device) for dtype in {torch.float32, half or torch.float32}}
    table = PrettyTable(["network", "batch", "step", "images/s", "ratio", "share of peak", "first step, s"], align="r")
    for network in args.networks:
        each = operations(network, args.size, device)
        for batch in args.batches:
            found = {name: [] for name in ways}
            for _ in range(args.rounds):
                for name, values in found.items():
                    values.append(in_a_process(measure, network, args.size, batch, TRICKS[:WAYS[name]]))
            speed = {name: batch / statistics.median(later for _, later in values) for name, values in found.items()}
            for name, value in speed.items():
                share = each * value / peaks[half if half and WAYS[name] >= 2 else torch.float32]
                first = statistics.median(first for first, _ in found[name])
                table.add_row([network, batch, name, f"{value:.2f}", f"{value / speed[PLAIN]:.2f}", f"{share:.2f}",
                               f"{first:.1f}"])
    print(table)
    name = torch.cuda.get_device_name() if device.type == "cuda" else torch.cpu.get_capabilities()["cpu_name"]
    print(f"torch {torch.__version__}, {device.type} ({name}), {args.size}x{args.size}, half precision: {half}, "
          f"{torch.get_num_threads()} threads; large products: "
          + ", ".join(f"{dtype} {value / 1e12:.2f} TFLOP/s" for dtype, value in peaks.items()))


if __name__ == "__main__":
    run(main)
