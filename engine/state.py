"""What a rank holds, as tensors by name, and how it is divided again for another number of ranks."""

import torch
from torch import Tensor, nn

from engine.distributed import Ranks
from engine.trainer import Trainer
from losses.shards import shard_of


def parts_of(trainer: Trainer) -> dict[str, nn.Module]:
    """The modules of a run by name; names of tensors begin with these: "backbone/fc.weight", "head/weight",
    "optimizer/backbone/fc.weight/momentum_buffer"."""
    views = {f"head_{dim}": head for dim, head in trainer.head.views.items()}
    return {"backbone": trainer.plain_backbone, "method": trainer.plain_method, "head": trainer.head} | views


def sharded_by_class(module: nn.Module) -> dict[str, int]:
    """{name in the state: dimension of the classes} of the tensors that hold only this rank's classes.

    Each module lists its own in its attribute ``sharded``.
    """
    return {f"{path}.{name}" if path else name: dim for path, part in module.named_modules()
            for name, dim in getattr(part, "sharded", {}).items()}


def rank_state(trainer: Trainer) -> dict:
    """Everything that this rank needs to resume, except the position."""
    tensors: dict[str, Tensor] = {}
    sharded: dict[str, int] = {}
    for part, module in parts_of(trainer).items():
        dims, learnt = sharded_by_class(module), dict(module.named_parameters())
        for name, value in module.state_dict().items():
            moments = trainer.optimizer.state.get(learnt[name], {}) if name in learnt else {}
            named = {f"{part}/{name}": value} | {f"optimizer/{part}/{name}/{key}": moment for key, moment in moments.items()
                                                 if moment is not None}
            tensors |= named
            if name in dims:
                sharded |= {key: dims[name] for key, moment in named.items() if moment.shape == value.shape}
    random = {"cpu": torch.get_rng_state()}
    if trainer.ranks.device.type == "cuda":
        random["cuda"] = torch.cuda.get_rng_state(trainer.ranks.device)
    return {"tensors": tensors, "sharded": sharded, "scaler": trainer.scaler.state_dict(), "random": random}


def not_finite(tensors: dict[str, Tensor]) -> str | None:
    """Name of the first tensor that is not finite everywhere; None if all are."""
    real = {name: value for name, value in tensors.items() if value.is_floating_point()}
    good = torch.stack([value.isfinite().all() for value in real.values()]).tolist()
    return None if all(good) else list(real)[good.index(False)]


def put_back(trainer: Trainer, tensors: dict[str, Tensor], scaler: dict, random: dict) -> None:
    """Restore what :func:`rank_state` returned; the random states last."""
    for part, module in parts_of(trainer).items():
        start = f"{part}/"
        module.load_state_dict({key.removeprefix(start): value for key, value in tensors.items() if key.startswith(start)})
        for name, parameter in module.named_parameters():
            start = f"optimizer/{part}/{name}/"
            moments = {key.removeprefix(start): value.to(parameter.device, copy=True)
                       for key, value in tensors.items() if key.startswith(start)}
            if moments:
                trainer.optimizer.state[parameter] = moments
    if scaler:
        trainer.scaler.load_state_dict(scaler)
    torch.set_rng_state(random["cpu"])
    if "cuda" in random and trainer.ranks.device.type == "cuda":
        torch.cuda.set_rng_state(random["cuda"], trainer.ranks.device)


def own_tensors(saved: list[dict], ranks: Ranks) -> dict[str, Tensor]:
    """This rank's tensors, from those of all ranks of a run on another number of ranks.

    Tensors that are sharded by class are divided again; rank r takes the others from the saved rank r % number of saved ranks.
    """
    source = saved[ranks.rank % len(saved)]
    return {key: own_shard([rank["tensors"][key] for rank in saved], source["sharded"][key])
            if key in source["sharded"] else value for key, value in source["tensors"].items()}


def own_shard(parts: list[Tensor], dim: int) -> Tensor:
    """This rank's classes of a tensor that was sharded into ``parts``; other classes are not read."""
    start, count = shard_of(sum(part.shape[dim] for part in parts))
    pieces, first = [], 0
    for part in parts:
        low, high = max(start, first), min(start + count, first + part.shape[dim])
        if low < high:
            pieces.append(part.narrow(dim, low - first, high - low))
        first += part.shape[dim]
    return torch.cat(pieces, dim)
