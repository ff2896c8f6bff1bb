"""The supported versions of torch: what an older one lacks is not used, and each has the collective under its own name."""

import importlib
import re
import warnings

import pytest
import torch
import torch.distributed as dist

from utils import torch_versions
from utils.paths import ROOT

# Names that torch 2.8 does not have, as a program would write them.
NEWER = ["dist.all_gather_single", "dist.reduce_scatter_single", "forward_sync_buffers=", "torch.cpu.get_capabilities",
         'init_process_group("fake", rank']
ROOMS = ["BCT_Methods", "backbones", "configs", "engine", "evaluation", "losses", "old_model", "records", "tools", "utils"]


def test_no_name_that_torch_2_8_lacks():
    files = [*ROOT.glob("*.py"), *(file for room in ROOMS for file in (ROOT / room).rglob("*.py"))]
    texts = {file: re.sub(r'""".*?"""|#.*', "", file.read_text(), flags=re.DOTALL) for file in files}
    assert [(str(file), name) for file, text in texts.items() for name in NEWER if name in text
            if file.name != "torch_versions.py"] == [] and len(files) > 100


@pytest.mark.parametrize("newest", [True, False])
def test_the_collective_of_a_newer_and_of_an_older_torch(newest, one_rank, monkeypatch):
    """The newer name if there is one; the older one works, too (and only warns if torch has both)."""
    if not newest:
        monkeypatch.delattr(dist, "all_gather_single", raising=False)
    elif not hasattr(dist, "all_gather_single"):
        pytest.skip(f"torch {torch.__version__} has the older name only")
    try:
        collective = importlib.reload(torch_versions).all_gather_single
        rows = torch.arange(6.0, device=one_rank.device).view(3, 2)
        out = torch.empty_like(rows)
        with warnings.catch_warnings():
            warnings.simplefilter("error" if newest else "ignore")
            collective(out, rows)
        assert torch.equal(out, rows)
    finally:
        monkeypatch.undo()
        importlib.reload(torch_versions)
