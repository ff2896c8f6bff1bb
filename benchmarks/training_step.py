"""Images per second of a training step of this project and of a plain PyTorch step, measured in one run.

    python benchmarks/training_step.py [--networks r18 r50] [--batches 32 64] [--each] [--compile]

Plain: fp32, contiguous, eager, an optimiser that loops over tensors.  This project: half precision if the device has it,
channels_last, fused optimiser, and on a CPU freed memory is kept.  --each adds these one after the other.  Each measurement runs
in a new process; rounds alternate, medians are printed.  Share of peak: floating-point operations of the step's products and
convolutions per second, divided by those of a large product in the same precision.
"""

import statistics
import sys
from pathlib import Path

import torch
from prettytable import PrettyTable

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from benchmarks.measure import in_a_process, processor, product_speed, seconds
from benchmarks.steps import CHANNELS_LAST, COMPILED, FUSED, HALF, KEPT, Work, plain_step
from utils.command_line import Parser
from utils.errors import run
from utils.precision import half_precision

PLAIN, OURS = "plain fp32, contiguous, eager", "this project"
TRICKS = (CHANNELS_LAST, HALF, FUSED, KEPT, COMPILED)
WAYS = {PLAIN: 0, "+ channels_last": 1, "+ half precision": 2, "+ fused optimiser": 3, OURS: 4, "compiled": 5}
STEPS = 3


def measure(network: str, size: int, batch: int, tricks: tuple[str, ...]) -> tuple[float, float]:
    """(seconds of the first step, median seconds of the next)."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    step = plain_step(network, size, batch, tricks, device)
    first = seconds(step, device)
    return first, statistics.median(seconds(step, device) for _ in range(STEPS))


def operations(network: str, size: int, device: torch.device) -> float:
    """Floating-point operations per image of a step."""
    step = plain_step(network, size, 2, (), device)
    with Work() as work:
        step()
    return work.operations / 2


def main() -> None:
    parser = Parser(__doc__)
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
    name = torch.cuda.get_device_name() if device.type == "cuda" else processor()
    print(f"torch {torch.__version__}, {device.type} ({name}), {args.size}x{args.size}, half precision: {half}, "
          f"{torch.get_num_threads()} threads; large products: "
          + ", ".join(f"{dtype} {value / 1e12:.2f} TFLOP/s" for dtype, value in peaks.items()))


if __name__ == "__main__":
    run(main)
