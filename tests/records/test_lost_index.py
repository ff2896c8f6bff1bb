"""A lost .idx, written again from the .rec: byte for byte if the records' ids are the keys; else numbered in file order."""

import numpy as np
import pytest
from toy import jpeg, write_records
from toy_labels import MIXED, SIX, write

from records.faces import FaceRecords
from records.lost_index import records_of, write_index
from records.recordio import MAGIC_BYTES, RecordReader, RecordWriter, pack
from utils.errors import UserError


def again(prefix) -> tuple[str, str]:
    """(the .idx before, the .idx that was written again)."""
    idx = prefix.with_suffix(".idx")
    before = idx.read_text()
    idx.unlink()
    write_index(prefix.with_suffix(".rec"))
    return before, idx.read_text()


@pytest.mark.parametrize("labels, header", [(SIX, [49, 6]), (MIXED, None), (MIXED, [49, 90])])
def test_the_index_is_the_same_again(tmp_path, capsys, labels, header):
    write(tmp_path / "train", labels, header)
    fingerprint = FaceRecords(tmp_path, 16).records.fingerprint()
    before, after = again(tmp_path / "train")
    assert before == after and FaceRecords(tmp_path, 16).records.fingerprint() == fingerprint
    assert "numbered by the ids in their headers" in capsys.readouterr().out


def test_records_in_parts_in_another_order_and_with_large_keys(tmp_path):
    """Payloads with the magic word, also in the header; keys of im2rec's threads; a header after the images."""
    payloads = [pack(1, MAGIC_BYTES * 3 + b"ab" + MAGIC_BYTES, 7, 0), pack([3, 2], b"", 0, 0), MAGIC_BYTES + bytes(40),
                pack(2, b"", 5, int.from_bytes(MAGIC_BYTES, "little")), pack(0, MAGIC_BYTES + bytes(99), (1 << 62) + 1, 0)]
    keys = [7, 0, 0x1234, 5, (1 << 62) + 1]
    payloads[2] = MAGIC_BYTES + bytes(4) + (0x1234).to_bytes(8, "little") + bytes(30)       # flag = the magic word
    with RecordWriter(tmp_path / "train") as writer:
        for key, payload in zip(keys, payloads, strict=True):
            writer.write(key, payload)
    before, after = again(tmp_path / "train")
    assert before == after
    reader = RecordReader(tmp_path / "train")
    assert [reader.read(key) for key in keys] == payloads


def test_ids_that_occur_twice_are_not_keys(tmp_path, capsys):
    with RecordWriter(tmp_path / "train") as writer:
        for key in range(5):
            writer.write(key, pack(key % 2, jpeg(0, key, 16), 3 if key else 9, 0))
    before, after = again(tmp_path / "train")
    assert before == after and "in file order, because ids in their headers occur twice" in capsys.readouterr().out


def test_the_index_of_other_peoples_file(faces):
    """mxnet's own file of 6,704 images."""
    source = faces / "ms1m-retinaface-t1/train"
    records = np.array(list(records_of(source.with_suffix(".rec"))))
    assert np.array_equal(records[:, 0], np.sort(RecordReader(source).offsets))


@pytest.mark.parametrize("change, words", [
    (lambda data: data[:-4], "the record at byte .*, after 6 good ones, is corrupt or cut short"),
    (lambda data: data[:-1], "after 6 good ones"),
    (lambda data: data + bytes(8), "after 7 good ones, is corrupt or cut short"),
    (lambda data: data + b"\n", "after 7 good ones"),
    (lambda data: bytes(4) + data[4:], "the record at byte 0, after 0 good ones"),
    (lambda data: b"", "is empty"),
    (lambda data: MAGIC_BYTES + (4).to_bytes(4, "little") + bytes(4) + data, "has 4 bytes, too few for a header"),
    (lambda data: MAGIC_BYTES + (4 | 2 << 29).to_bytes(4, "little") + bytes(4) + data, "after 0 good ones"),
    (lambda data: MAGIC_BYTES + (4 | 1 << 29).to_bytes(4, "little") + bytes(4) + data, "after 0 good ones")])
def test_a_corrupt_file_gets_no_index(tmp_path, change, words):
    write_records(tmp_path / "train", [2, 4])
    rec, idx = tmp_path / "train.rec", tmp_path / "train.idx"
    rec.write_bytes(change(rec.read_bytes()))
    idx.unlink()
    with pytest.raises(UserError, match=words):
        write_index(rec)
    assert not idx.exists()


def test_an_index_that_is_there_is_not_replaced(tmp_path):
    write_records(tmp_path / "train", [2, 4])
    with pytest.raises(UserError, match="train.idx exists; remove it first"):
        write_index(tmp_path / "train.rec")
    for name in ("none.rec", "train", "train.idx"):
        with pytest.raises(UserError, match="no file"):
            write_index(tmp_path / name)
