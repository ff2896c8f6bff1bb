""".npy and .npz: whole files are read; wrong headers, foreign contents and bombs are refused without allocating."""

import io
import zipfile

import numpy as np
import pytest
from memory import less_than

from utils.arrays import open_npy, read_npz
from utils.errors import UserError
from utils.origin import check_origin, load_array


def with_header(text: str, data: bytes = bytes(96)) -> bytes:
    header = text.encode().ljust(118 - 1) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + data


def header(shape: str, kind: str = "'<f8'") -> str:
    return f"{{'descr': {kind}, 'fortran_order': False, 'shape': {shape}}}"


@pytest.mark.parametrize("array", [np.arange(12, dtype=np.float32).reshape(3, 4), np.array([True, False]), np.arange(5),
                                   np.asfortranarray(np.arange(6.0).reshape(2, 3))])
def test_whole_files(tmp_path, array):
    np.save(tmp_path / "a.npy", array)
    found = open_npy(tmp_path / "a.npy")
    assert isinstance(found, np.memmap) and found.dtype == array.dtype and np.array_equal(found, array)


@pytest.mark.parametrize("data, words", [
    (with_header(header("(2, 4)")), "promises 192 bytes, it has 224"),          # silent before: the first rows
    (with_header(header("(13,)")), "mmap length is greater"),
    (with_header(header("(4294967296, 4294967296)")), "too big"),
    (with_header(header(f"({10**24},)")), "OverflowError"),
    (with_header(header("(-3, -4)")), "negative"),
    (with_header(header("(True, 12)")), "TypeError"),
    (with_header("((((("), "TokenError"),
    (with_header(header("(3, 4)", "'>f8'")), "order of bytes"),
    (with_header(header("(12,)", "'|O'")), "objects"),
    (with_header(header("(6,)", "'<c16'")), "complex128"),
    (with_header(header("()")), "promises|no rows"),
    (with_header(header("(0, 4)"), b""), "no rows"),
    (b"", "Error"), (b"no array", "magic"), (b"PK\x03\x04", "magic")], ids=range(15))
def test_wrong_headers_are_refused(tmp_path, data, words):
    (tmp_path / "a.npy").write_bytes(data)
    with pytest.raises(ValueError, match=words):
        open_npy(tmp_path / "a.npy")
    with pytest.raises(UserError, match="is not a whole .npy file .*make it again with: this"):
        load_array(tmp_path / "a.npy", "this")


def npz(**arrays) -> bytes:
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


def zipped(data: bytes, how: int = zipfile.ZIP_STORED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", how) as out:
        out.writestr("a.npy", data)
    return file.getvalue()


def test_npz_reads_the_names_asked_for(tmp_path):
    (tmp_path / "a.npz").write_bytes(npz(a=np.arange(3), text=np.array("word"), harm=np.array([{}], object)))
    found = read_npz(tmp_path / "a.npz", ("a", "text", "absent"))
    np.savez_compressed(tmp_path / "b.npz", a=np.zeros(10**6))          # a constant curve packs to a thousandth
    assert not read_npz(tmp_path / "b.npz", ("a",))["a"].any()
    assert found["a"].tolist() == [0, 1, 2] and str(found["text"]) == "word" and set(found) == {"a", "text"}


@pytest.mark.parametrize("data, words", [
    (npz(a=np.array([{}], object)), "holds object"),
    (zipped(with_header(header(f"({10**17},)"))), "holds float64"),
    (zipped(with_header(header("(4294967296, 4294967296)"))), "holds float64"),
    (zipped(with_header(header("(2, 4)"))), "holds float64"),                       # more than its header says
    (zipped(with_header(header("(10_000_000,)"), bytes(80_000_000)), zipfile.ZIP_DEFLATED), "unpacks from"),
    (b"PK\x03\x04", "zip"), (b"", "zip")], ids=range(7))
def test_wrong_npz_are_refused(tmp_path, data, words):
    (tmp_path / "a.npz").write_bytes(data)
    del data
    with less_than(20), pytest.raises(ValueError, match=words):
        read_npz(tmp_path / "a.npz", ("a",))


@pytest.mark.parametrize("text", ["[1]", "[" * 100_000, "{"], ids=range(3))
def test_an_origin_that_is_not_a_table(tmp_path, text):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(UserError, match="a.json is not a description of a.npy"):
        check_origin(tmp_path / "a.npy", "this", model="m")
