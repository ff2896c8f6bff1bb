"""One update of each method in half precision on a device against the same update in float32 on the CPU."""

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from method_steps import clock_of
from method_toys import DIM, METHODS, Pictures, batches, make_backbone, make_head, make_method, write_old_side
from places import HALF, ON_EACH_DEVICE

from backbones import get_model
from engine.distributed import Ranks
from engine.trainer import SharedScaler, Trainer
from losses.shards import all_rows
from old_model.features import OldFeatures

SIDE = 32           # pixels
FIRST_SCALE = 256.0
# Limits in roundings of half precision: 2^-11 in float16, 2^-8 in bfloat16.  Measured in both on a CPU: a term is off by at most
# 1 of its size; the change of a part's weights, after 18 layers forwards and backwards, by 49 (float16) and 17 of its norm.
TERM, CHANGE = 8, {"cuda": 100, "cpu": 50}
MORE = {"NCCL": {"queue_size": 33}}


@pytest.fixture(scope="module")
def old_side(tmp_path_factory) -> Path:
    return write_old_side(tmp_path_factory.mktemp("old"))


def updated(name: str, folder: Path, device: str, half: torch.dtype | bool) -> tuple[dict, dict, dict]:
    """(terms, change of the weights of each part, buffers of the method) of one update."""
    method, cfg = make_method(name, folder, fp16=half, **MORE.get(name, {}))
    method.to(device)
    method.start_epoch(3, make_backbone().to(device), Pictures())       # UniBCT's prototypes, computed on the device
    torch.manual_seed(6)
    backbone = get_model("r18", fp16=half, num_features=DIM, image_size=SIDE).to(device, memory_format=torch.channels_last)
    trainer = Trainer(cfg, Ranks(0, 1, torch.device(device)), backbone, method, make_head(fp16=half).to(device))
    assert trainer.scaler.is_enabled() == (device == "cuda" and bool(half))
    if trainer.scaler.is_enabled():     # torch's first scale overflows here, and the update would be skipped
        trainer.scaler = SharedScaler(device, init_scale=FIRST_SCALE)
    parts = {"backbone": backbone, "method": method, "head": trainer.head}
    before = {part: flat(module) for part, module in parts.items()}
    _, labels, index = batches()[0]
    images = torch.randint(256, (len(index), SIDE, SIDE, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(7))
    terms = trainer.step(images, labels, index, index % 2 == 0, clock_of(0), 0.1)
    assert trainer.bad_steps.read() == (0, -1)
    return ({key: value.item() for key, value in terms.items()},
            {part: flat(module) - before[part] for part, module in parts.items()},
            {key: value.double().cpu() for key, value in method.named_buffers()})


def flat(module: torch.nn.Module) -> torch.Tensor:
    return torch.cat([torch.zeros(0), *(p.detach().cpu().flatten() for p in module.parameters())]).double()


@ON_EACH_DEVICE
@pytest.mark.parametrize("name", METHODS)
def test_an_update_in_half_precision_is_that_in_float32(name, device, old_side, one_rank):
    half = HALF[device]
    rounding = torch.finfo(half).eps / 2
    found, exact = updated(name, old_side, device, half), updated(name, old_side, "cpu", False)
    assert found[0] == pytest.approx(exact[0], rel=TERM * rounding, abs=TERM * rounding)
    for part, change in exact[1].items():
        assert (found[1][part] - change).norm() <= CHANGE[device] * rounding * change.norm(), part
    for key, value in exact[2].items():
        assert (found[2][key] - value).abs().max() <= CHANGE[device] * rounding * max(1, value.abs().max()), key
    assert exact[1]["backbone"].norm() > 0 and exact[1]["head"].norm() > 0


@ON_EACH_DEVICE
def test_old_features_of_a_batch_without_credible_images(device, tmp_path, old_side):
    """MixBCT asks for the rows of no image."""
    import numpy as np

    np.save(tmp_path / "a_feature.npy", np.full((4, 3), 0.5, np.float32))
    old = OldFeatures(tmp_path / "a_feature.npy", images=4, dim=3)
    none, two = old[torch.zeros(0, dtype=torch.int64)].to(device), old[torch.tensor([1, 3])]
    assert none.shape == (0, 3) and none.device.type == device
    assert two.is_pinned() == (device == "cuda") and torch.equal(two.to(device).cpu(), torch.full((2, 3), 3.0 ** -0.5))


@ON_EACH_DEVICE
def test_the_process_group_of_one_rank(device, one_rank):
    """nccl for tensors on a GPU, gloo for those on the CPU; each collective that the project calls, with a value to check."""
    place = one_rank.device
    assert place.type == device and {"cpu": "cpu:gloo", "cuda": "cuda:nccl"}[device] in dist.get_backend_config().split(",")
    rows = torch.arange(6.0, device=place).view(3, 2)
    assert torch.equal(all_rows(rows), rows) and torch.equal(all_rows(rows.long().cpu()), rows.long().cpu())
    for kind in (dist.ReduceOp.SUM, dist.ReduceOp.MAX):
        for value in (rows.clone(), rows.long(), rows.cpu()):
            before = value.clone()
            dist.all_reduce(value, kind)
            assert torch.equal(value, before)
    values = [None]
    dist.all_gather_object(values, {"a": 1})
    dist.barrier()
    assert values == [{"a": 1}]
