"""Half precision, if the hardware supports it: one rule for backbones and heads."""

import functools
import logging
from contextlib import nullcontext

import torch

# Names in torch.cpu.get_capabilities(): x86 with AVX-512 or AMX, ARM.
BF16_INSTRUCTIONS = ("avx512_bf16", "amx_bf16", "bf16", "sve_bf16")


def half_precision(device: torch.device | str) -> torch.dtype | None:
    """What ``fp16 = True`` means on a device: float16 on CUDA, bfloat16 on a CPU with its instructions, else None (float32).

    A CPU without bfloat16 instructions emulates them: a convolution is ten times as slow as in float32.
    """
    kind = torch.device(device).type
    return torch.float16 if kind == "cuda" else cpu_half_precision() if kind == "cpu" else None


@functools.cache
def cpu_half_precision() -> torch.dtype | None:
    """bfloat16 if this CPU has instructions for it, else None; the first call writes it to the log."""
    instructions = [name for name in BF16_INSTRUCTIONS if torch.cpu.get_capabilities().get(name)]
    words = f"bfloat16 ({' '.join(instructions)})" if instructions else "float32, it has no bfloat16 instructions"
    logging.getLogger("bct").info("fp16 on this CPU: %s", words)
    return torch.bfloat16 if instructions else None


def half_type(device: torch.device | str, fp16: bool | torch.dtype) -> torch.dtype | None:
    """The type that ``fp16`` means: None for False, :func:`half_precision` for True; a torch.dtype means itself."""
    return fp16 if isinstance(fp16, torch.dtype) else half_precision(device) if fp16 else None


def autocast(device: torch.device | str, fp16: bool | torch.dtype):
    """A context in which torch.autocast runs the operations that it lists in half precision.  fp16: as for :func:`half_type`."""
    dtype = half_type(device, fp16)
    return nullcontext() if dtype is None else torch.autocast(torch.device(device).type, dtype)
