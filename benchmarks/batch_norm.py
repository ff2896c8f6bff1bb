"""How exact is torch's BatchNorm in float32 on a CPU, in both memory formats?  Compared with float64.

    python benchmarks/batch_norm.py                         [32, 64, 112, 112], the first layer of a ResNet at batch 32
    python benchmarks/batch_norm.py --shape 64 128 28 28

Prints the largest error of the output and of both gradients, relative to the largest value.
"""

import argparse

import torch
from prettytable import PrettyTable
from torch import Tensor

FORMATS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}


def results(x: Tensor, upstream: Tensor, dtype: torch.dtype, memory_format: torch.memory_format) -> list[Tensor]:
    """Output, gradient of the weight and gradient of the input, as float64.  x, upstream: [N, C, H, W]."""
    norm = torch.nn.BatchNorm2d(x.shape[1]).to(dtype)
    leaf = x.to(dtype).contiguous(memory_format=memory_format).requires_grad_()
    out = norm(leaf)
    out.backward(upstream.to(dtype).contiguous(memory_format=memory_format))
    assert norm.weight.grad is not None and leaf.grad is not None
    return [value.detach().double() for value in (out, norm.weight.grad, leaf.grad)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", type=int, nargs=4, default=[32, 64, 112, 112], metavar=("N", "C", "H", "W"),
                        help="shape of the input (default: 32 64 112 112)")
    args = parser.parse_args()
    generator = torch.Generator().manual_seed(0)
    x, upstream = (torch.randn(args.shape, generator=generator, dtype=torch.float64) for _ in range(2))
    exact = results(2 * x + 1, upstream, torch.float64, torch.contiguous_format)
    table = PrettyTable(["float32", "output", "gradient of the weight", "gradient of the input"], align="r")
    for name, memory_format in FORMATS.items():
        found = results(2 * x + 1, upstream, torch.float32, memory_format)
        errors = [float((a - b).abs().max() / b.abs().max()) for a, b in zip(found, exact, strict=True)]
        table.add_row([name, *(f"{error:.0e}" for error in errors)])
    print(table)


if __name__ == "__main__":
    main()
