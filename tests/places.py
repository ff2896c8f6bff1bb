"""Where a test runs: the code of the tests on a GPU runs on the CPU in the normal suite, so that a mistake cannot hide in it."""

import pytest
import torch

NEEDS_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU, and python -m pytest -m cuda")
CUDA = pytest.param("cuda", marks=[pytest.mark.cuda, NEEDS_GPU])
ON_EACH_DEVICE = pytest.mark.parametrize("device", ["cpu", CUDA])
HALF = {"cpu": torch.bfloat16, "cuda": torch.float16}       # what a CPU and a GPU compute fast
