"""Half precision where the device has it: float16 on CUDA, bfloat16 on CPUs with the instructions for it."""

import logging
from functools import lru_cache

import torch


@lru_cache
def half_precision(kind: str) -> torch.dtype | None:
    """The dtype that ``fp16 = True`` means on a device of ``kind`` ("cuda", "cpu"); None = float32.

    A CPU without AVX512-BF16 or AMX emulates bfloat16 at a tenth of float32's speed: there it is float32.
    """
    if kind == "cuda":
        return torch.float16
    if torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported():
        return torch.bfloat16
    logging.getLogger("bct").info("this CPU has no bfloat16 instructions: fp16 = True runs in float32")
    return None


def autocast(device: torch.device, fp16: bool | torch.dtype) -> torch.autocast:
    """The autocast context of a forward; ``fp16`` may also be a dtype, which is then taken on any device."""
    dtype = fp16 if isinstance(fp16, torch.dtype) else half_precision(device.type) if fp16 else None
    return torch.autocast(device.type, dtype or torch.bfloat16, enabled=dtype is not None)
