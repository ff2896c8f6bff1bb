"""The head, block by block and in half precision, against one float64 matrix of all classes on the CPU."""

import pytest
import torch
import torch.nn.functional as F
from places import ON_EACH_DEVICE

from losses import CombinedMarginLoss, PartialFC
from losses.partial_fc import CLASSES_PER_BLOCK

DIM, ROWS, SCALE, M2 = 64, 24, 32.0, 0.3
CLASSES = {"cpu": 9_000, "cuda": 150_000}           # three blocks on each device, the last one short


@ON_EACH_DEVICE
@pytest.mark.parametrize("kind", [False, torch.float16, torch.bfloat16], ids=["float32", "float16", "bfloat16"])
def test_blocks_against_a_dense_head(kind, device, one_rank):
    """A cosine of unit vectors in half precision is off by up to two roundings, and the scale multiplies that."""
    classes = CLASSES[device]
    assert 2 < classes / CLASSES_PER_BLOCK[device] < 3
    draw = torch.Generator().manual_seed(1)
    new, labels = 5 * torch.randn(ROWS, DIM, generator=draw), torch.randint(classes, (ROWS,), generator=draw)
    head = PartialFC(CombinedMarginLoss(SCALE, 1.0, M2, 0.1), DIM, classes, fp16=kind).to(device)
    with torch.no_grad():           # classes of a trained head: the rows of a class are near its vector
        head.weight.mul_(50)
        head.weight[labels.to(device)] = (new + 9 * torch.randn(ROWS, DIM, generator=draw)).to(device)
    rows = new.clone().to(device).requires_grad_()
    loss = head(rows, labels.to(device))
    (1024 * loss).backward()                        # a scaler's factor: a gradient of 1e-8 is 0 in float16

    exact_rows, weight = new.double().requires_grad_(), head.weight.detach().cpu().double().requires_grad_()
    cosines = F.normalize(exact_rows) @ F.normalize(weight).T
    angle = torch.arccos(cosines[torch.arange(ROWS), labels])
    logits = SCALE * cosines.index_put((torch.arange(ROWS), labels), torch.cos(angle + M2) - 0.1)
    exact = F.cross_entropy(logits, labels)
    (1024 * exact).backward()
    assert 1 < exact < 20
    rounding = torch.finfo(kind or torch.float32).eps / 2
    assert loss.item() == pytest.approx(exact.item(), abs=4 * SCALE * rounding)
    for found, true in ((rows.grad, exact_rows.grad), (head.weight.grad, weight.grad)):
        # A probability is off by SCALE times the error of its cosine, relative to its size.
        assert (found.cpu() - true).norm() <= 4 * SCALE * rounding * true.norm()
