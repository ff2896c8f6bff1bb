"""Half precision: which device has it, which part of a network uses it, and that the rest stays in float32."""

import logging

import pytest
import torch

from backbones import get_model
from utils import precision

LAST = {"r18": ("layer4.1.conv2", "fc"), "mbf": ("layers.7.layers.1.layers.2.layers.0", "conv_sep.layers.0"),
        "cnn_s": ("layers.6", "fc"), "vit_t": ("blocks.1.mlp.fc2", "feature.0")}


def small(name: str, fp16):
    torch.manual_seed(0)
    settings = dict(depth=2) if name == "vit_t" else {}
    return get_model(name, fp16=fp16, num_features=16, image_size=32, **settings).eval()


@pytest.fixture
def cpu(monkeypatch):
    """A function: its arguments become the instructions of this CPU."""
    def has(*instructions):
        monkeypatch.setattr(precision, "cpu_instructions", lambda: set(instructions))
        precision.cpu_half_precision.cache_clear()
    yield has
    precision.cpu_half_precision.cache_clear()


@pytest.mark.parametrize("device, instructions, dtype", [
    ("cuda", [], torch.float16), ("cuda:1", [], torch.float16), ("mps", ["bf16"], None),
    ("cpu", ["avx2", "avx512f", "avx512_vnni"], None), ("cpu", ["avx512f", "avx512_bf16"], torch.bfloat16),
    ("cpu", ["amx_bf16"], torch.bfloat16), ("cpu", ["asimd", "bf16"], torch.bfloat16), ("cpu", ["svebf16"], torch.bfloat16)])
def test_rule(cpu, device, instructions, dtype):
    cpu(*instructions)
    assert precision.half_precision(device) is dtype
    assert precision.half_precision(torch.device(device)) is dtype


@pytest.mark.parametrize("text, instructions", [
    ("processor\t: 0\nflags\t\t: sse avx512_bf16\nbugs : avx\n\nflags : avx512_bf16 sse\n", {"sse", "avx512_bf16"}),
    ("flags : sse avx2\nvmx flags : bf16\nflags : sse\n", {"sse"}),
    ("Features\t: asimd bf16\nCPU part : 0xd40\n", {"asimd", "bf16"}),
    ("model name : flags\n", set()), (None, set())])
def test_instructions_that_all_processors_have(text, instructions, tmp_path, monkeypatch):
    """Lines of x86, of different processors in one machine, of ARM, and of a system that does not list them."""
    file = tmp_path / "cpuinfo"
    if text is not None:
        file.write_text(text)
    monkeypatch.setattr(precision, "Path", lambda name: {"/proc/cpuinfo": file}[name])
    assert precision.cpu_instructions() == instructions


@pytest.mark.skipif(not hasattr(torch.cpu, "get_capabilities"), reason="torch before 2.11 does not list the instructions")
def test_instructions_of_this_machine_are_those_that_torch_finds():
    found, known = precision.cpu_instructions(), torch.cpu.get_capabilities()
    for name, other in (("avx512_bf16", "avx512_bf16"), ("amx_bf16", "amx_bf16"), ("bf16", "bf16"), ("svebf16", "sve_bf16")):
        assert (name in found) == bool(known.get(other)), name


def test_float32_is_not_rounded_on_a_gpu(monkeypatch):
    """torch's own default is to round in convolutions; some installations round in products, too."""
    for module in (torch.backends.cudnn, torch.backends.cuda.matmul):
        monkeypatch.setattr(module, "allow_tf32", True)
    precision.full_float32()
    assert (torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32) == (False, False)


def test_the_log_has_it_once(cpu, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("bct"), "propagate", True)
    cpu("avx2")
    with caplog.at_level(logging.INFO, "bct"):
        for _ in range(3):
            precision.half_precision("cpu")
    assert [record.getMessage() for record in caplog.records] == [
        "fp16 on this CPU: float32, it has no bfloat16 instructions"]


@pytest.mark.parametrize("name", LAST)
def test_bfloat16_inside_float32_outside(name):
    model, exact = small(name, torch.bfloat16), small(name, False)
    inside, outside = LAST[name]
    seen = {}
    model.get_submodule(inside).register_forward_hook(lambda m, i, out: seen.update(inside=out.dtype))
    model.get_submodule(outside).register_forward_hook(lambda m, i, out: seen.update(outside=out.dtype))
    x = torch.randn(4, 3, 32, 32)
    with torch.no_grad():
        half, full = model(x), exact(x)
    assert seen == {"inside": torch.bfloat16, "outside": torch.float32} and half.dtype == torch.float32
    assert 0 < (half - full).norm() < 0.03 * full.norm()


@pytest.mark.parametrize("name", LAST)
def test_training_in_bfloat16(name):
    """The weights, their gradients and the output are float32 although the products are not."""
    model = small(name, torch.bfloat16).train()
    out = model(torch.randn(4, 3, 32, 32).contiguous(memory_format=torch.channels_last))
    (out * torch.arange(16)).sum().backward()
    assert out.dtype == torch.float32
    for key, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad.dtype == torch.float32 and parameter.grad.isfinite().all(), key


@pytest.mark.parametrize("name", LAST)
def test_fp16_without_the_instructions_is_float32(cpu, name):
    cpu("avx2")
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(small(name, True)(x), small(name, False)(x))
