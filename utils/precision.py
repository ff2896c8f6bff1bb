"""Half precision, if the hardware supports it: one rule for backbones and heads."""

import functools
import logging
from contextlib import nullcontext, suppress
from pathlib import Path

import torch

BF16_INSTRUCTIONS = ("avx512_bf16", "amx_bf16", "bf16", "svebf16")      # Linux's names: x86 with AVX-512 or AMX, ARM


def half_precision(device: torch.device | str) -> torch.dtype | None:
    """What ``fp16 = True`` means on a device: float16 on CUDA, bfloat16 on a CPU with its instructions, else None (float32).

    A CPU without bfloat16 instructions emulates them: a convolution is ten times as slow as in float32.
    """
    kind = torch.device(device).type
    return torch.float16 if kind == "cuda" else cpu_half_precision() if kind == "cpu" else None


@functools.cache
def cpu_half_precision() -> torch.dtype | None:
    """bfloat16 if this CPU has instructions for it, else None; the first call writes it to the log."""
    instructions = [name for name in BF16_INSTRUCTIONS if name in cpu_instructions()]
    words = f"bfloat16 ({' '.join(instructions)})" if instructions else "float32, it has no bfloat16 instructions"
    logging.getLogger("bct").info("fp16 on this CPU: %s", words)
    return torch.bfloat16 if instructions else None


def cpu_instructions() -> set[str]:
    """Linux's names of the instruction sets that all processors of this machine have; empty if the system does not list them."""
    lists: list[set[str]] = []
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            name, _, words = line.partition(":")
            if name.strip() in ("flags", "Features"):       # x86, ARM
                lists.append(set(words.split()))
    return set.intersection(*lists) if lists else set()


def full_float32() -> None:
    """Let float32 mean float32 on a GPU, too.

    torch lets convolutions there round their inputs to 10 bits (TF32), which changes a feature by about 1e-3, and some
    installations let products do the same.
    """
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False


def half_type(device: torch.device | str, fp16: bool | torch.dtype) -> torch.dtype | None:
    """The type that ``fp16`` means: None for False, :func:`half_precision` for True; a torch.dtype means itself."""
    return fp16 if isinstance(fp16, torch.dtype) else half_precision(device) if fp16 else None


def autocast(device: torch.device | str, fp16: bool | torch.dtype):
    """A context in which torch.autocast runs the operations that it lists in half precision.  fp16: as for :func:`half_type`."""
    dtype = half_type(device, fp16)
    return nullcontext() if dtype is None else torch.autocast(torch.device(device).type, dtype)
