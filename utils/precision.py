"""Half precision where the hardware has it: one rule for the backbones and the heads."""

import functools
import logging
from contextlib import nullcontext

import torch

# Names in torch.cpu.get_capabilities(): x86 with AVX-512 or AMX, ARM.
BF16_INSTRUCTIONS = ("avx512_bf16", "amx_bf16", "bf16", "sve_bf16")


def half_precision(device: torch.device | str) -> torch.dtype | None:
    """What ``fp16 = True`` means on a device: float16 on CUDA, bfloat16 on a CPU made for it, else None (float32).

    A CPU without bfloat16 instructions emulates them: a convolution takes ten times as long as in float32.
    """
    kind = torch.device(device).type
    return torch.float16 if kind == "cuda" else cpu_half_precision() if kind == "cpu" else None


@functools.cache
def cpu_half_precision() -> torch.dtype | None:
    found = [name for name in BF16_INSTRUCTIONS if torch.cpu.get_capabilities().get(name)]
    logging.getLogger("bct").info("fp16 on this CPU: %s", f"bfloat16 ({' '.join(found)})" if found else
                                  "float32, it has no bfloat16 instructions")
    return torch.bfloat16 if found else None


def half_type(device: torch.device | str, fp16: bool | torch.dtype) -> torch.dtype | None:
    """The type that ``fp16`` means: False, True (see :func:`half_precision`), or the type itself, e.g. torch.bfloat16."""
    return fp16 if isinstance(fp16, torch.dtype) else half_precision(device) if fp16 else None


def autocast(device: torch.device | str, fp16: bool | torch.dtype):
    """Context for the operations that half precision is good for; torch.autocast says which.

    fp16: as for :func:`half_type`.
    """
    dtype = half_type(device, fp16)
    return nullcontext() if dtype is None else torch.autocast(torch.device(device).type, dtype)
