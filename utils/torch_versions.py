"""What differs between the versions of torch that this project supports: 2.8 and newer.

Before a newer name of torch is used, look here.  Done without, because each needs a newer torch than 2.8:

    DistributedDataParallel(forward_sync_buffers=...)   2.13; buffers that DDP is told to ignore are not sent anyway
    torch.cpu.get_capabilities()                        2.11; utils/precision.py reads /proc/cpuinfo
    init_process_group("fake") without a store          2.9 or 2.10; engine/cost.py gives it one
    torch.onnx.export(program) without dynamo=True      2.9
"""

import torch.distributed as dist

# (output [W * n, ...], input [n, ...]): all ranks' rows.  torch 2.13 gave the collective a new name, and warns about the old one.
all_gather_single = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
