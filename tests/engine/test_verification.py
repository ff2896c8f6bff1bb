"""Ten-fold accuracy against a loop over scikit-learn's folds; the .bin reader on good and hostile files."""

import os
import pickle
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from ranks import on_ranks
from sklearn.model_selection import KFold

from engine.distributed import start_ranks
from engine.verification import THRESHOLDS, embed_pairs, ten_fold_accuracy
from records.bins import load_bin
from utils.errors import UserError


def test_ten_folds_equal_a_loop():
    draw = np.random.default_rng(0)
    first = draw.standard_normal((57, 8))
    same = draw.random(57) < 0.5
    second = np.where(same[:, None], first + 0.7 * draw.standard_normal((57, 8)), draw.standard_normal((57, 8)))
    features = np.empty((114, 8))
    features[0::2], features[1::2] = first, second
    features /= np.linalg.norm(features, axis=1, keepdims=True)

    distance = [sum((a - b) ** 2) for a, b in zip(features[0::2], features[1::2], strict=True)]
    accuracy = []
    for others, fold in KFold(10).split(same):
        score = [np.mean([(distance[i] < t) == same[i] for i in others]) for t in THRESHOLDS]
        best = THRESHOLDS[int(np.argmax(score))]
        accuracy.append(np.mean([(distance[i] < best) == same[i] for i in fold]))
    found = ten_fold_accuracy(features, same)
    assert found[:2] == pytest.approx((np.mean(accuracy), np.std(accuracy)))
    assert 0.6 < found[0] < 1


def jpegs(n: int) -> list[bytes]:
    draw = np.random.default_rng(1)
    return [cv2.imencode(".jpg", draw.integers(0, 255, (32, 32, 3), np.uint8))[1].tobytes() for _ in range(n)]


@pytest.mark.parametrize("items", [jpegs, lambda n: [np.frombuffer(b, np.uint8) for b in jpegs(n)]])
def test_bytes_and_arrays(tmp_path, items):
    path = tmp_path / "a.bin"
    path.write_bytes(pickle.dumps((items(20), [True, False] * 5)))
    images, same = load_bin(path, 32)
    assert images.shape == (20, 32, 32, 3) and images.dtype == torch.uint8 and same.tolist() == [True, False] * 5
    assert load_bin(path, 16)[0].shape == (20, 16, 16, 3)


@pytest.mark.parametrize("protocol", range(6))
def test_every_protocol_and_kind_of_list(tmp_path, protocol):
    path, data, same = tmp_path / "a.bin", jpegs(20), [True, False] * 5
    arrays = [np.frombuffer(item, np.uint8) for item in data]
    path.write_bytes(pickle.dumps((data, same), protocol))
    expected = load_bin(path, 32)[0]
    for items in (arrays, [array[:, None] for array in arrays], np.array(data, object), tuple(data)):
        for marks in (same, np.array(same), list(np.array(same)), [int(mark) for mark in same], np.array(same, int),
                      list(np.array(same, int)), [float(mark) for mark in same], np.array(same, np.uint8)):
            path.write_bytes(pickle.dumps((items, marks), protocol))
            images, found = load_bin(path, 32)
            assert torch.equal(images, expected) and found.dtype == bool and found.tolist() == same


def test_real_pairs(faces):
    images, same = load_bin(faces / "ms1m-retinaface-t1/lfw.bin", 112)
    assert len(images) == 1200 and same.sum() == 300
    arrays, _ = load_bin(faces / "ms1m-retinaface-t1/lfw_arrays.bin", 112)
    assert torch.equal(arrays, images[:len(arrays)])


def absurd() -> bytes:
    data = bytearray(jpegs(1)[0])
    at = data.index(b"\xff\xc0")
    data[at + 5:at + 9] = b"\xea\x60" * 2
    return bytes(data)


def again_and_again(opcodes: str) -> bytes:
    """1 MB of text that becomes bytes a thousand times: a gigabyte."""
    return b"(V" + b"x" * 10**6 + b"\nq\0" + opcodes.encode() * 1000 + b"l."


class Harm:
    def __reduce__(self):
        return os.system, ("touch harmed",)


@pytest.mark.parametrize("data, words", [
    (pickle.dumps(Harm()), "is not a verification file"),
    (b"", "is not a verification file"),
    (pickle.dumps({"a": 1}), "is not a verification file"),
    (pickle.dumps([1, 2]), "int instead of a list"),
    (pickle.dumps((jpegs(20), [0.5] * 10)), "is not a verification file"),
    (pickle.dumps((jpegs(20), ["same"] * 10)), "other things than encoded images and booleans"),
    (pickle.dumps(([np.zeros(9, np.float32)] * 20, [True] * 10)), "other things than encoded"),
    (pickle.dumps(([np.zeros(9, np.complex64)] * 20, [True] * 10)), "an array of 'c8'"),
    (again_and_again("c_codecs\nencode\n(h\0Vlatin1\ntR"), "makes more bytes than it has"),
    (pickle.dumps((jpegs(1) * (1 << 17), [True] * (1 << 16))), "10 to 32768 pairs"),
    (pickle.dumps((jpegs(19) + [absurd()], [True] * 10)), "item 19 is not an image .*claims more pixels than"),
    (b"(c_codecs\nencode\n(Vx\nVhex\ntRl.", "asks for '_codecs.encode'"),
    (b"r\xff\xff\xff\x7f.", "is not a verification file"),                    # the memo of C's unpickler: 32 GB
    (b"\x8e" + b"\xff" * 7 + b"\x7f.", "is not a verification file"),
    (b"\x96" + b"\xff" * 7 + b"\x7f.", "is not a verification file"),
    (b"cnumpy\nndarray\n((I1000000000000\ntt R.", "is not a verification file"),
    (b"cbuiltins\nprint\n(tR.", "asks for 'builtins.print'"),
    (pickle.dumps((jpegs(20), [True] * 9)), "20 images for 9 pairs"),
    (pickle.dumps((jpegs(19) + [b"no image"], [True] * 10)), "item 19 is not an image"),
])
def test_bad_files_are_refused(tmp_path, monkeypatch, data, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.bin").write_bytes(data)
    with pytest.raises(UserError, match=words):
        load_bin(tmp_path / "a.bin", 32)
    assert not (tmp_path / "harmed").exists()


class Sums(torch.nn.Module):
    """A backbone whose feature is two numbers of the image."""

    def forward(self, x):
        return torch.stack([x[:, 0].sum((1, 2)), x[:, 1, :, 0].sum(1)], 1)


def embed_on_this_rank(pairs: int) -> tuple:
    images = torch.randint(256, (2 * pairs, 4, 4, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return embed_pairs(Sums(), images, start_ranks() if "RANK" not in os.environ else
                       SimpleNamespace(rank=int(os.environ["RANK"]), world_size=2, device=torch.device("cpu")), 8)


@pytest.mark.parametrize("pairs", [3, 11])
def test_two_ranks_share_the_work(pairs, one_rank):
    features, norm = embed_on_this_rank(pairs)
    images = torch.randint(256, (2 * pairs, 4, 4, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    x = (images.double().permute(0, 3, 1, 2) - 127.5) / 127.5
    slow = Sums()(x) + Sums()(x.flip(3))
    np.testing.assert_allclose(features, torch.nn.functional.normalize(slow).numpy(), atol=1e-5)
    assert norm == pytest.approx(Sums()(x).norm(dim=1).mean().item(), rel=1e-5)
    for found, found_norm in on_ranks(2, embed_on_this_rank, pairs):
        assert np.array_equal(found, features) and found_norm == pytest.approx(norm)
