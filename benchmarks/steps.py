"""A plain training step with one change after the other, and what a step computes and moves."""

from collections.abc import Callable, Collection

import torch
from torch import Tensor
from torch.amp import GradScaler
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter
from torch.utils.flop_counter import flop_registry

from backbones import get_model
from benchmarks.heads import DenseHead
from records.images import to_input
from utils.memory import keep_freed_memory
from utils.precision import half_type

CHANNELS_LAST, HALF, BFLOAT16, FUSED = "channels_last", "half precision", "bfloat16", "fused optimiser"
FOREACH, KEPT, COMPILED, RESIDENT = "foreach optimiser", "freed memory kept", "compiled", "images on the device"
UNWRITTEN = ("empty", "new_empty")      # beginnings of names of operations that make a tensor without writing it


def plain_step(network: str, size: int, batch: int, tricks: Collection[str], device: torch.device, dim: int = 128,
               classes: int = 1000) -> Callable[[], None]:
    """A function that does one step, from uint8 images to updated weights, with a dense float32 head.

    tricks: of the constants above.  Without one of them: float32, contiguous, eager, an optimiser that loops over tensors.
    HALF is what config.fp16 means on the device; with float16 a GradScaler scales the loss.
    """
    half = torch.bfloat16 if BFLOAT16 in tricks else HALF in tricks
    model = get_model(network, fp16=half, num_features=dim, image_size=size).to(device).train()
    if CHANNELS_LAST in tricks:
        model.to(memory_format=torch.channels_last)
    if KEPT in tricks and device.type == "cpu":
        keep_freed_memory()
    head = DenseHead(dim, classes).to(device)
    way = dict(fused=True) if FUSED in tricks else dict(foreach=FOREACH in tricks, fused=False)
    optimizer = torch.optim.SGD([*model.parameters(), *head.parameters()], 0.01, 0.9, weight_decay=5e-4, **way)
    scaler = GradScaler(device.type, enabled=half_type(device, half) == torch.float16)
    images = torch.randint(256, (batch, size, size, 3), dtype=torch.uint8)
    if device.type == "cuda":
        images = images.to(device) if RESIDENT in tricks else images.pin_memory()
    labels = torch.randint(classes, (batch,)).to(device)
    run_model = torch.compile(model) if COMPILED in tricks else model

    def step() -> None:
        x = to_input(images, device)
        new = run_model(x if CHANNELS_LAST in tricks else x.contiguous())
        scaler.scale(head(new, labels)).backward()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad(set_to_none=True)
    return step


class Work(TorchDispatchMode):
    """``with Work() as work``: work.operations, floating-point operations of products and convolutions, forward and backward;
    work.bytes, what all operations read and write if each of them reads its arguments and writes its results once.

    Views move nothing.  A cache, and a kernel that does several operations at once, save some of these bytes.
    """

    def __init__(self):
        super().__init__()
        self.operations = self.bytes = 0

    def __torch_dispatch__(self, function, types, arguments=(), named=None):
        named = named or {}
        out = function(*arguments, **named)
        count = flop_registry.get(function.overloadpacket)
        if count is not None:
            self.operations += count(*arguments, **named, out_val=out)
        self.bytes += moved(function._schema, arguments, named, out)
        return out


def moved(schema, arguments: tuple, named: dict, out) -> int:
    """Bytes that one operation reads and writes."""
    aliases = [result.alias_info for result in schema.returns]
    if aliases and all(alias is not None and not alias.is_write for alias in aliases):
        return 0                                    # a view
    given = {argument.name: value for argument, value in zip(schema.arguments, arguments, strict=False)} | named
    written = [given[argument.name] for argument in schema.arguments
               if argument.name in given and argument.alias_info is not None and argument.alias_info.is_write]
    made = [] if any(aliases) or schema.name.removeprefix("aten::").startswith(UNWRITTEN) else out
    return sum(tensor_bytes(value) for value in tree_iter((list(given.values()), written, made)))


def tensor_bytes(value) -> int:
    """Bytes of a tensor's elements, each place in memory counted once; 0 for anything else."""
    if not isinstance(value, Tensor):
        return 0
    return min(value.numel() * value.element_size(), value.untyped_storage().nbytes())
