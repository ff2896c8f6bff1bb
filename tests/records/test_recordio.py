"""The record container against bytes built by hand from the specification, mxnet's own file, and hostile files."""

import os
import pickle
import struct
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest

from records.recordio import MAGIC_BYTES, RecordReader, RecordWriter, pack, unpack
from utils.errors import UserError


def write(prefix, payloads: list[bytes]) -> None:
    with RecordWriter(prefix) as writer:
        for key, payload in enumerate(payloads):
            writer.write(key, payload)


def part(flag: int, data: bytes) -> bytes:
    return MAGIC_BYTES + struct.pack("<I", flag << 29 | len(data)) + data + bytes(-len(data) % 4)


# payload -> the bytes that the specification asks for
CASES = [
    (b"", part(0, b"")),
    (b"abcde", part(0, b"abcde")),
    (b"x" + MAGIC_BYTES + b"yz", part(0, b"x" + MAGIC_BYTES + b"yz")),                     # unaligned: whole
    (MAGIC_BYTES, part(1, b"") + part(3, b"")),
    (b"abcd" + MAGIC_BYTES + b"ef", part(1, b"abcd") + part(3, b"ef")),
    (b"abcd" + MAGIC_BYTES + MAGIC_BYTES + b"e", part(1, b"abcd") + part(2, b"") + part(3, b"e")),
    (b"ab" + MAGIC_BYTES + b"cd" + MAGIC_BYTES + b"q", part(1, b"ab" + MAGIC_BYTES + b"cd") + part(3, b"q")),
]


@pytest.mark.parametrize("payload, expected", CASES, ids=range(len(CASES)))
def test_bytes_are_those_of_the_specification(tmp_path, payload, expected):
    write(tmp_path / "a", [b"first", payload, b"last"])
    first, last = part(0, b"first"), part(0, b"last")
    assert (tmp_path / "a.rec").read_bytes() == first + expected + last
    assert (tmp_path / "a.idx").read_text() == f"0\t0\n1\t{len(first)}\n2\t{len(first + expected)}\n"
    reader = RecordReader(tmp_path / "a")
    assert [bytes(reader.read(key)) for key in (2, 1, 0)] == [b"last", payload, b"first"]


def test_mxnets_own_file_is_written_again_byte_for_byte(faces, tmp_path):
    source = faces / "ms1m-retinaface-t1/train"
    reader = RecordReader(source)
    with RecordWriter(tmp_path / "train") as writer:
        for key in reader.keys.tolist():
            header, image = reader.unpack(key)
            label = header.label if header.flag else header.label[0]
            writer.write(key, pack(label, bytes(image), header.id, header.id2))
    for end in (".rec", ".idx"):
        assert (tmp_path / f"train{end}").read_bytes() == source.with_suffix(end).read_bytes()


def test_mxnet_reads_what_we_write(tmp_path):
    mxnet = pytest.importorskip("mxnet", reason="mxnet 1.9.1 (numpy 1.23.5, Python <= 3.11) is not installed")
    payloads = [payload for payload, _ in CASES]
    write(tmp_path / "a", payloads)
    reader = mxnet.recordio.MXIndexedRecordIO(str(tmp_path / "a.idx"), str(tmp_path / "a.rec"), "r")
    assert [reader.read_idx(key) for key in range(len(payloads))] == payloads


@pytest.mark.parametrize("label, flag", [(7, 0), (2.5, 0), ([3, 4], 2), ([1], 1), (np.float32(9), 0)])
def test_headers(label, flag):
    header, image = unpack(pack(label, b"jpeg", 11, 12))
    assert (header.flag, header.id, header.id2, bytes(image)) == (flag, 11, 12, b"jpeg")
    assert header.label.tolist() == np.atleast_1d(np.float32(label)).tolist()


def read_all(reader: RecordReader) -> list[bytes]:
    return [bytes(reader.read(int(key))) for key in reader.keys]


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_processes_share_a_reader(tmp_path, method):
    write(tmp_path / "a", [bytes([i]) * i for i in range(50)])
    reader = RecordReader(tmp_path / "a.rec")
    expected = read_all(reader)
    with get_context(method).Pool(2) as pool:
        assert pool.map(read_all, [reader] * 4) == [expected] * 4
    assert read_all(pickle.loads(pickle.dumps(reader))) == expected


def test_the_three_ways_to_name_a_file(tmp_path):
    write(tmp_path / "train", [b"a"])
    file = tmp_path / "train.rec"
    assert {RecordReader(path).path for path in (tmp_path, tmp_path / "train", file)} == {file}


def test_keys_in_any_order(tmp_path):
    with RecordWriter(tmp_path / "a") as writer:
        for key in (9, 3, 700):
            writer.write(key, b"%d" % key)
    reader = RecordReader(tmp_path / "a")
    assert [bytes(reader.read(k)) for k in (3, 9, 700)] == [b"3", b"9", b"700"]
    with pytest.raises(UserError, match="no record 4"):
        reader.read(4)


def test_an_interrupted_writer_leaves_the_former_file(tmp_path):
    write(tmp_path / "a", [b"former"])
    with pytest.raises(KeyboardInterrupt), RecordWriter(tmp_path / "a") as writer:
        writer.write(0, b"new")
        raise KeyboardInterrupt
    assert bytes(RecordReader(tmp_path / "a").read(0)) == b"former"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.idx", "a.rec"]


@pytest.mark.parametrize("name, expected", [("a.idx", b"former"), ("a.rec.*.part", b"former"), ("a.idx.*.part", None)])
def test_an_interruption_between_the_renames(tmp_path, monkeypatch, name, expected):
    """One of the three renames fails: the former pair is there again, or the new .rec has no index."""
    write(tmp_path / "a", [b"former"])
    replace = os.replace

    def broken(source, target):
        if Path(source).match(name) and not str(target).endswith("part"):
            raise KeyboardInterrupt
        replace(source, target)
    monkeypatch.setattr(os, "replace", broken)
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "a", [b"new"])
    if expected is None:
        assert not (tmp_path / "a.idx").is_file() and (tmp_path / "a.idx.old").is_file()
    else:
        assert bytes(RecordReader(tmp_path / "a").read(0)) == expected and not (tmp_path / "a.idx.old").is_file()


def test_fingerprint_sees_lengths_ends_and_index(tmp_path):
    prints = set()
    for name, payloads in (("a", [b"1234", b"5678"]), ("b", [b"1234", b"5679"]), ("c", [b"12345678"]),
                           ("d", [b"1234"])):
        write(tmp_path / name, payloads)
        prints.add(RecordReader(tmp_path / name).fingerprint())
    assert len(prints) == 4
    write(tmp_path / "a2", [b"1234", b"5678"])
    assert RecordReader(tmp_path / "a2").fingerprint() == RecordReader(tmp_path / "a").fingerprint()


def frame(words: str, rec: bytes, idx: str = "0\t0\n") -> tuple:
    return pytest.param(rec, idx, words, id=words)


@pytest.mark.parametrize("rec, idx, words", [
    frame("ends at byte 12, where no other record begins", part(0, b"1234") + b"junk"),
    frame("inside the record at byte 16", part(0, b"x" * 8 + part(0, b"1234")), "0\t0\n1\t16\n"),
    frame("other than zeros after its 3 bytes", part(0, b"1234")[:4] + struct.pack("<I", 3) + b"1234"),
    frame("runs past the end", part(1, b"") + 500 * part(2, b"")),
    frame("names a byte twice", part(0, b"1234"), "0\t0\n1\t0\n"),
    frame("not an index", part(0, b"1234"), "0\t0.5\n"),
    frame("not an index", part(0, b"1234"), f"0\t{10**30}\n"),
    frame("can need", part(0, b"1234"), "0\t0\n" + "\n" * 100)])
def test_hostile_frames(tmp_path, rec, idx, words):
    (tmp_path / "a.rec").write_bytes(rec)
    (tmp_path / "a.idx").write_text(idx)
    with pytest.raises(UserError, match=words):
        read_all(RecordReader(tmp_path / "a"))


def test_endless_parts_stop_at_a_limit(tmp_path, monkeypatch):
    monkeypatch.setattr("records.recordio.MAX_RECORD", 1000)
    (tmp_path / "a.rec").write_bytes(part(1, b"") + 200 * part(2, b"") + part(3, b""))
    (tmp_path / "a.idx").write_text("0\t0\n")
    with pytest.raises(UserError, match="record 0 at byte 0 has more than 1,000 bytes"):
        RecordReader(tmp_path / "a")
    with pytest.raises(UserError, match="expected 1,000 at most"):
        write(tmp_path / "b", [bytes(1000)])


def test_a_file_that_changed_under_its_reader(tmp_path):
    write(tmp_path / "a", [b"12345678", b"abcdefgh"])
    reader = pickle.loads(pickle.dumps(RecordReader(tmp_path / "a")))
    write(tmp_path / "a", [b"1234"])
    with pytest.raises(UserError, match="has 12 bytes now and had 32"):
        reader.read(0)


@pytest.mark.parametrize("file, change, words", [
    ("a.rec", lambda data: data[:-4], "runs past the end"),
    ("a.rec", lambda data: data[:20], "cut short"),
    ("a.rec", lambda data: data[:16] + bytes([data[16] ^ 1]) + data[17:], "magic word"),
    ("a.rec", lambda data: data[:20] + struct.pack("<I", (1 << 29) - 1) + data[24:], "past the end"),
    ("a.rec", lambda data: data[:20] + struct.pack("<I", 2 << 29 | 4) + data[24:], "out of order"),
    ("a.idx", lambda _: b"0\t0\n1\t4000\n", "points to byte 4000"),
    ("a.idx", lambda _: b"0\t0\n1\t-16\n", "points to byte -16"),
    ("a.idx", lambda _: b"zero\t0\n", "not an index"),
    ("a.idx", lambda _: b"0\t0\n1", "not an index"),
    ("a.idx", lambda _: b"0\t0\n0\t16\n", "key twice"),
    ("a.idx", lambda _: b"0\t0\t1\n1\t16\t2\n", "6 numbers in 2 lines"),
    ("a.idx", lambda _: b"", "0 numbers"),
    ("a.rec", None, "no file .*a.rec"), ("a.idx", None, "no file .*a.idx")])
def test_corrupt_files_are_refused_by_name(tmp_path, file, change, words):
    write(tmp_path / "a", [b"12345678", b"abcdefgh"])
    if change is None:
        (tmp_path / file).unlink()
    else:
        (tmp_path / file).write_bytes(change((tmp_path / file).read_bytes()))
    with pytest.raises(UserError, match=words) as error:
        read_all(RecordReader(tmp_path / "a"))
    assert str(tmp_path) in str(error.value)


def test_a_file_cut_inside_its_last_record_is_refused_at_once(tmp_path):
    write(tmp_path / "a", [b"12345678", b"abcdefgh"])
    (tmp_path / "a.rec").write_bytes((tmp_path / "a.rec").read_bytes()[:-4])
    with pytest.raises(UserError, match="record 1 at byte 16 has 8 bytes"):
        RecordReader(tmp_path / "a")


def test_first_labels_of_every_kind_of_record(tmp_path):
    magic = np.frombuffer(MAGIC_BYTES, np.float32)[0]
    labels = [3, [4, 9], [5], [magic, 1], [6, magic], 7]
    images = [b"jpeg", b"", b"x" * 100, b"jpeg", b"jpeg", b""]              # the last ends with its header
    write(tmp_path / "a", [pack(label, image, 1, 2) for label, image in zip(labels, images, strict=True)])
    reader = RecordReader(tmp_path / "a")
    expected = np.array([np.ravel(label)[0] for label in labels], np.float32)
    assert np.array_equal(reader.first_labels(range(6)), expected)
    assert np.array_equal(reader.first_labels([5, 0, 3]), expected[[5, 0, 3]])


def test_first_labels_name_a_corrupt_record(tmp_path):
    write(tmp_path / "a", [b"short", pack(1, b"", 0, 0)])
    with pytest.raises(UserError, match="record 0 at byte 0 has no valid header"):
        RecordReader(tmp_path / "a").first_labels([1, 0])


def test_prefetch_takes_any_keys(tmp_path):
    with RecordWriter(tmp_path / "a") as writer:
        for key in (9, 3, 700):
            writer.write(key, bytes([key % 251]) * 5000 * key)
    reader = RecordReader(tmp_path / "a")
    reader.prefetch([700, 3, 9, 9])
    assert [len(reader.read(key)) for key in (3, 700)] == [15_000, 3_500_000]
    with pytest.raises(UserError, match="no record 4"):
        reader.prefetch([4])


def test_a_folder_that_does_not_exist_is_a_sentence(tmp_path):
    with pytest.raises(UserError, match="cannot write .*none/a.rec: No such file"), RecordWriter(tmp_path / "none/a"):
        pass


def test_a_full_disk_leaves_the_former_file(tmp_path):
    write(tmp_path / "a", [b"former"])
    with pytest.raises(UserError, match="cannot write .*a.rec: No space left"), RecordWriter(tmp_path / "a") as writer:
        writer.rec.close()
        writer.rec = open("/dev/full", "wb")
        writer.write(0, b"new" * 100)
    assert bytes(RecordReader(tmp_path / "a").read(0)) == b"former"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.idx", "a.rec"]
