"""Every network: shapes, sizes, memory formats, gradients, and what is random in training only."""

import math

import pytest
import torch
from torch import nn

from backbones import NETWORKS, get_model
from utils.errors import UserError

# One small network per architecture: 9 patches, 3 blocks.
SMALL = {"r18": {}, "mbf": {}, "cnn_s": {}, "vit_t": dict(depth=3), "r2060": dict(depths=(1, 9, 2, 1))}


def small(name: str, image_size: int = 32, **settings) -> nn.Module:
    torch.manual_seed(0)
    return get_model(name, num_features=16, image_size=image_size, **{**SMALL.get(name, {}), **settings})


def images(count: int, size: int = 32) -> torch.Tensor:
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(1))


# An iresnet's forward is the same at every depth, and slow on the meta device.
@pytest.mark.parametrize("name", ["r18", *(name for name in NETWORKS if not name.startswith("r"))])
def test_embeddings(name):
    with torch.device("meta"):
        model = get_model(name, num_features=256).eval()
        assert model(torch.empty(2, 3, 112, 112)).shape == (2, 256)
    assert (model.num_features, model.image_size) == (256, 112)


@pytest.mark.parametrize("name, depths", [("r34", (3, 4, 6, 3)), ("r200", (6, 26, 60, 6)), ("r2060", (3, 128, 896, 3))])
def test_parameters_of_iresnets(name, depths):
    """Counted by hand: norms 2 per channel, slopes 1, 3x3 convolutions, a 1x1 one and a norm where a stage begins."""
    count = 27 * 64 + 3 * 64
    widths = (64, 64, 128, 256, 512)
    for i, o, depth in zip(widths, widths[1:], depths, strict=False):
        count += (2 * i + 9 * i * o + i * o + 2 * o) + (depth - 1) * (2 * o + 9 * o * o)
        count += depth * (2 * o + o + 9 * o * o + 2 * o)
    count += 2 * 512 + 512 * 7 * 7 * 100 + 100 + 2 * 100
    with torch.device("meta"):
        assert sum(p.numel() for p in get_model(name, num_features=100).parameters()) == count


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("size", [16, 48, 64, 112])
def test_sizes(name, size):
    model = small(name, size).eval()
    with torch.no_grad():
        out = model(images(1, size))
    assert out.shape == (1, 16) and out.dtype == torch.float32 and out.isfinite().all()


@pytest.mark.parametrize("name", SMALL)
def test_other_sizes_are_refused(name):
    with pytest.raises(UserError, match="multiple of 16.*found 100"):
        small(name, 100)
    with pytest.raises(UserError, match=r"\[B, 3, 32, 32\], found \[2, 3, 48, 48\]"):
        small(name)(images(2, 48))
    with pytest.raises(UserError, match=r"found \[2, 32, 32, 3\]"):
        small(name)(images(2).permute(0, 2, 3, 1))


@pytest.mark.parametrize("wrong, near", [("R18", "r18"), ("vit-t", "vit_t"), ("mbf_big", "mbf_large"), ("?", "r18")])
def test_unknown_name(wrong, near):
    with pytest.raises(UserError) as error:
        get_model(wrong)
    assert all(name in str(error.value) for name in NETWORKS)
    assert wrong == "?" or f"did you mean {near}?" in str(error.value)


@pytest.mark.parametrize("name", SMALL)
def test_channels_last_changes_nothing(name):
    """One training step in either memory format: output, running statistics and gradients agree."""
    settings = dict(mask_ratio=0.0, drop_path=0.0) if name == "vit_t" else {}
    direction = torch.randn(4, 16, generator=torch.Generator().manual_seed(2))
    found = []
    for layout in (torch.contiguous_format, torch.channels_last):
        model = small(name, **settings).to(memory_format=layout)
        out = model(images(4).contiguous(memory_format=layout))
        (out * direction).sum().backward()
        found.append({"out": out.detach(), **dict(model.named_buffers()),
                      **{key: p.grad for key, p in model.named_parameters() if p.grad is not None}})
    plain, last = found
    assert plain.keys() == last.keys()
    # Batches of four amplify rounding; a wrong order of places or channels is an error of 100 %.
    # Gradients that are zero in exact arithmetic (a bias before a norm) are measured against the others.
    largest = max(value.float().norm() for value in plain.values())
    for key, value in plain.items():
        assert (value - last[key]).float().norm() <= 0.02 * value.float().norm() + 1e-5 * largest, key


@pytest.mark.parametrize("name", SMALL)
def test_gradient_reaches_every_parameter(name):
    model = small(name)
    (model(images(4)) * torch.arange(16)).sum().backward()
    for key, parameter in model.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, key
        assert parameter.grad is None or parameter.grad.isfinite().all(), key
    at_rest = [key for key, parameter in model.named_parameters() if not parameter.requires_grad]
    assert at_rest == (["features.weight"] if name.startswith("r") else [])


def test_the_mask_token_is_not_trained_without_masks():
    model = small("vit_t_dp005_mask0", depth=1)
    (model(images(4)) * torch.arange(16)).sum().backward()
    assert [key for key, p in model.named_parameters() if p.grad is None] == ["mask_token"]
    assert not model.mask_token.requires_grad


@pytest.mark.parametrize("name, last", [("r18", "fc"), ("mbf", "features.layers.2"), ("cnn_s", "fc"), ("vit_t", "feature.0")])
def test_dropout_before_the_last_layers(name, last):
    model = small(name, dropout=0.25)
    seen = []
    model.get_submodule(last).register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    model(images(16))
    model.eval()(images(16))
    zeros = [(x == 0).float().mean().item() for x in seen]
    assert 0.2 < zeros[0] < 0.3 and zeros[1] == 0


def test_initial_weights():
    def spread(tensor):
        return tensor.std().item()

    r18, mbf, vit = (small(name) for name in ("r18", "mbf", "vit_t"))
    assert spread(r18.layer4[1].conv2.weight) == pytest.approx(0.1, rel=0.02)
    assert (r18.features.weight == 1).all() and (r18.layer1[0].bn1.weight == 1).all()
    # Kaiming, fan out: sqrt(2 / (outputs x kernel area / groups)).
    assert spread(mbf.conv_sep.layers[0].weight) == pytest.approx(math.sqrt(2 / 512), rel=0.02)
    assert spread(mbf.features.layers[2].weight) == pytest.approx(math.sqrt(2 / 16), rel=0.05)
    assert spread(vit.blocks[0].mlp.fc1.weight) == pytest.approx(0.02, rel=0.02)
    assert spread(vit.pos_embed) == pytest.approx(0.02, rel=0.1) and (vit.blocks[0].mlp.fc1.bias == 0).all()


def test_the_small_network_layer_by_layer():
    """Its embedding, computed in float64 from the weights by loops over pixels: three halvings, a linear layer, a norm."""
    model = small("cnn_s", 16, widths=(2, 3, 4)).eval()
    weights = {key: value.double() for key, value in model.state_dict().items()}
    for key in weights:                                     # statistics as a training leaves them
        if key.endswith(("running_mean", "running_var")):
            model.state_dict()[key].copy_(torch.rand(weights[key].shape) + 0.5)
    weights = {key: value.double() for key, value in model.state_dict().items()}

    def norm(x, name):
        shape = -1, *[1] * (x.dim() - 1)
        mean, var, gain, shift = (weights[f"{name}.{part}"].view(shape)
                                  for part in ("running_mean", "running_var", "weight", "bias"))
        return (x - mean) / (var + 1e-5).sqrt() * gain + shift

    batch = images(1, 16)
    x = batch[0].double()
    for layer in (0, 3, 6):
        kernel, side = weights[f"layers.{layer}.weight"], x.shape[1]
        padded = torch.zeros(len(x), side + 2, side + 2, dtype=torch.float64)
        padded[:, 1:-1, 1:-1] = x
        x = torch.stack([torch.stack([(padded[:, 2 * r:2 * r + 3, 2 * c:2 * c + 3] * kernel).sum((1, 2, 3))
                                      for c in range(side // 2)], 1) for r in range(side // 2)], 1)
        x = norm(x, f"layers.{layer + 1}")
        x = torch.where(x > 0, x, weights[f"layers.{layer + 2}.weight"].view(-1, 1, 1) * x)
    assert x.shape == (4, 2, 2)
    expected = norm(weights["fc.weight"] @ x.flatten(), "features")
    torch.testing.assert_close(model(batch)[0].double(), expected, rtol=1e-4, atol=1e-5)     # sums of at most 27 products


# Vision transformer

def test_masks_follow_mask_ratio():
    """Without blocks a token's result depends on its own place alone: in training it is that or the mask token."""
    model = small("vit_t", image_size=96, depth=0, mask_ratio=0.25)           # 100 patches
    batch = images(6, 96)
    whole = model.eval().trunk(batch)
    seen = model.train().trunk(batch)
    masked = (seen == model.mask_token).all(2)
    assert torch.equal(seen[~masked], whole[~masked])
    assert masked.sum(1).tolist() == [25] * 6
    assert len({tuple(row.tolist()) for row in masked}) == 6                  # each image has its own mask
    assert not (whole == model.mask_token).all(2).any()


@pytest.mark.parametrize("ratio", [0.1, 0.5])
def test_blocks_see_only_what_is_kept(ratio):
    model = small("vit_t", image_size=96, depth=1, mask_ratio=ratio)
    tokens = []
    model.blocks[0].register_forward_pre_hook(lambda block, inputs: tokens.append(inputs[0].shape[1]))
    model(images(2, 96))
    model.eval()(images(2, 96))
    assert tokens == [int(100 * (1 - ratio)), 100]


def test_attention_is_the_textbook_sum():
    attention = small("vit_t").blocks[0].attn
    x = torch.randn(2, 5, 256)
    q, k, v = attention.qkv(x).chunk(3, dim=2)
    out = torch.empty(2, 5, 256)
    for image in range(2):
        for head in range(8):
            own = slice(32 * head, 32 * head + 32)
            for token in range(5):
                weights = torch.softmax(k[image, :, own] @ q[image, token, own] / math.sqrt(32), 0)
                out[image, token, own] = (weights[:, None] * v[image, :, own]).sum(0)
    torch.testing.assert_close(attention(x), attention.proj(out))


def test_stochastic_depth():
    model = small("vit_t", depth=5, drop_path=0.4)
    assert [block.drop_path for block in model.blocks] == pytest.approx([0, 0.1, 0.2, 0.3, 0.4])
    block, branch = model.blocks[-1], 2.0 ** torch.randint(-3, 3, (4000, 2, 3))
    factor = block.kept(branch) / branch
    assert (factor == factor[:, :1, :1]).all()                                # an image's branch is kept as a whole
    kept = factor[:, 0, 0] > 0
    torch.testing.assert_close(factor[:, 0, 0][kept], torch.full((int(kept.sum()),), 1 / 0.6))
    assert kept.float().mean().item() == pytest.approx(0.6, abs=0.04)
    assert torch.equal(block.eval().kept(branch), branch)


def test_pixels_that_vit_does_not_see():
    model = small("vit_t").eval()
    batch = images(1)
    edge, inside = batch.clone(), batch.clone()
    edge[:, :, 27:], edge[:, :, :, 27:] = 0, 0
    inside[:, :, 26, 26] = 0
    assert torch.equal(model(edge), model(batch)) and not torch.equal(model(inside), model(batch))


# Activations computed twice

def trained_once(model: nn.Module, calls: list) -> dict:
    first = model.get_submodule("layer2.0" if hasattr(model, "layer2") else "blocks.0")
    first.register_forward_pre_hook(lambda *_: calls.append(1))
    torch.manual_seed(3)
    out = model(images(4))
    (out * torch.linspace(-1, 1, 64).view(4, 16)).sum().backward()
    return {"out": out.detach(), **dict(model.named_buffers()),
            **{key: p.grad for key, p in model.named_parameters() if p.grad is not None}}


@pytest.mark.parametrize("kept, recomputed", [
    (("r18", dict(depths=(1, 17, 2, 1))), ("r2060", dict(depths=(1, 17, 2, 1)))),
    (("vit_t", dict(depth=2)), ("vit_t", dict(depth=2, recompute=True))),
])
def test_recomputing_changes_memory_only(kept, recomputed):
    """Same output, gradients, masks and drops; the batch counts once in the running statistics."""
    results, calls = [], ([], [])
    for (name, settings), counted in zip((kept, recomputed), calls, strict=True):
        results.append(trained_once(small(name, **settings), counted))
    assert [len(counted) for counted in calls] == [1, 2]
    assert results[0].keys() == results[1].keys()
    for key, value in results[0].items():
        torch.testing.assert_close(results[1][key], value, msg=key)
    assert results[1].get("layer2.3.bn1.num_batches_tracked", 1) == 1
