"""The reader of verification sets (.bin): every kind of file that is in use, and hostile pickles."""

import os
import pickle

import cv2
import numpy as np
import pytest
import torch

from records.bins import load_bin
from utils.errors import UserError


def jpegs(count: int) -> list[bytes]:
    draw = np.random.default_rng(1)
    return [cv2.imencode(".jpg", draw.integers(0, 255, (32, 32, 3), np.uint8))[1].tobytes() for _ in range(count)]


def arrays(count: int) -> list[np.ndarray]:
    return [np.frombuffer(data, np.uint8) for data in jpegs(count)]


@pytest.mark.parametrize("items", [jpegs, arrays], ids=["bytes", "arrays"])
def test_bytes_and_arrays(tmp_path, items):
    path = tmp_path / "a.bin"
    path.write_bytes(pickle.dumps((items(20), [True, False] * 5)))
    images, same = load_bin(path, 32)
    assert images.shape == (20, 32, 32, 3) and images.dtype == torch.uint8 and same.tolist() == [True, False] * 5
    assert load_bin(path, 16)[0].shape == (20, 16, 16, 3)


@pytest.mark.parametrize("protocol", range(6))
def test_every_protocol_and_kind_of_list(tmp_path, protocol):
    path, data, same = tmp_path / "a.bin", jpegs(20), [True, False] * 5
    path.write_bytes(pickle.dumps((data, same), protocol))
    expected = load_bin(path, 32)[0]
    for items in (arrays(20), [array[:, None] for array in arrays(20)], np.array(data, object), tuple(data)):
        for marks in (same, np.array(same), list(np.array(same)), [int(mark) for mark in same], np.array(same, int),
                      list(np.array(same, int)), [float(mark) for mark in same], np.array(same, np.uint8)):
            path.write_bytes(pickle.dumps((items, marks), protocol))
            images, found = load_bin(path, 32)
            assert torch.equal(images, expected) and found.dtype == bool and found.tolist() == same


def test_real_pairs(faces):
    images, same = load_bin(faces / "ms1m-retinaface-t1/lfw.bin", 112)
    assert len(images) == 1200 and same.sum() == 300
    of_arrays, _ = load_bin(faces / "ms1m-retinaface-t1/lfw_arrays.bin", 112)
    assert torch.equal(of_arrays, images[:len(of_arrays)])


def jpeg_of_60000_pixels_a_side() -> bytes:
    """A small JPEG whose header claims 60,000 x 60,000 pixels."""
    data = bytearray(jpegs(1)[0])
    start_of_frame = data.index(b"\xff\xc0")
    data[start_of_frame + 5:start_of_frame + 9] = b"\xea\x60" * 2
    return bytes(data)


def gigabyte() -> bytes:
    """1 MB of text that becomes bytes a thousand times."""
    return b"(V" + b"x" * 10**6 + b"\nq\0" + b"c_codecs\nencode\n(h\0Vlatin1\ntR" * 1000 + b"l."


class Harm:
    def __reduce__(self):
        return os.system, ("touch harmed",)


# name of the test: (maker of the file's bytes, words of the error).  Makers, because pytest prints parameters that are bytes.
REFUSED = {
    "calls a function": (lambda: pickle.dumps(Harm()), "is not a verification file"),
    "empty": (lambda: b"", "is not a verification file"),
    "dictionary": (lambda: pickle.dumps({"a": 1}), "is not a verification file"),
    "numbers": (lambda: pickle.dumps([1, 2]), "int instead of a list"),
    "marks of one half": (lambda: pickle.dumps((jpegs(20), [0.5] * 10)), "is not a verification file"),
    "marks of text": (lambda: pickle.dumps((jpegs(20), ["same"] * 10)), "other things than encoded images and booleans"),
    "float arrays": (lambda: pickle.dumps(([np.zeros(9, np.float32)] * 20, [True] * 10)), "other things than encoded"),
    "complex arrays": (lambda: pickle.dumps(([np.zeros(9, np.complex64)] * 20, [True] * 10)), "an array of 'c8'"),
    "a gigabyte of bytes": (gigabyte, "makes more bytes than it has"),
    "65536 pairs": (lambda: pickle.dumps((jpegs(1) * (1 << 17), [True] * (1 << 16))), "10 to 32768 pairs"),
    "image of 3.6 billion pixels": (lambda: pickle.dumps((jpegs(19) + [jpeg_of_60000_pixels_a_side()], [True] * 10)),
                                    "item 19 is not an image .*claims more pixels than"),
    "another codec": (lambda: b"(c_codecs\nencode\n(Vx\nVhex\ntRl.", "asks for '_codecs.encode'"),
    "memo of 32 GB": (lambda: b"r\xff\xff\xff\x7f.", "is not a verification file"),         # in C's unpickler
    "long bytes": (lambda: b"\x8e" + b"\xff" * 7 + b"\x7f.", "is not a verification file"),
    "long bytearray": (lambda: b"\x96" + b"\xff" * 7 + b"\x7f.", "is not a verification file"),
    "large ndarray": (lambda: b"cnumpy\nndarray\n((I1000000000000\ntt R.", "is not a verification file"),
    "print": (lambda: b"cbuiltins\nprint\n(tR.", "asks for 'builtins.print'"),
    "9 marks for 10 pairs": (lambda: pickle.dumps((jpegs(20), [True] * 9)), "20 images for 9 pairs"),
    "item that is not an image": (lambda: pickle.dumps((jpegs(19) + [b"no image"], [True] * 10)), "item 19 is not an image"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_bad_files_are_refused(tmp_path, monkeypatch, name):
    make, words = REFUSED[name]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.bin").write_bytes(make())
    with pytest.raises(UserError, match=words):
        load_bin(tmp_path / "a.bin", 32)
    assert not (tmp_path / "harmed").exists()
