"""Records that cannot be read: refused by name, or replaced by the next readable image (config.bad_records = skip)."""

import numpy as np
import pytest
from toy import jpeg, write_records

from records.faces import FaceRecords
from records.loader import BadRecords, ordered_loader
from records.recordio import RecordReader, RecordWriter, pack
from utils.errors import UserError


def test_a_record_that_is_not_an_image_is_one_sentence_from_any_worker(tmp_path):
    with RecordWriter(tmp_path / "train") as writer:
        writer.write(0, pack([3, 1], b"", 0, 0))
        writer.write(1, pack([0, 0], jpeg(0, 1, 16), 1, 0))
        writer.write(2, pack([0, 0], b"not a jpeg", 2, 0))
    for workers in (0, 2):
        with pytest.raises(UserError) as error:
            list(ordered_loader(FaceRecords(tmp_path), 2, 0, 1, workers))
        sentence = str(error.value)
        assert sentence.startswith(str(tmp_path / "train.rec")) and "record 2" in sentence and "\n" not in sentence


def corrupt(folder, *images: int, how: str = "pixels") -> None:
    """Overwrite bytes of the images i (key i + 1) of train.rec: of the JPEG, of the frame, or the label."""
    reader = RecordReader(folder / "train")
    data = bytearray(reader.path.read_bytes())
    for i in images:
        at = int(reader.offsets[reader.row(i + 1)])
        at, new = {"pixels": (at + 40, bytes(20)), "frame": (at, bytes(8)), "label": (at + 32, b"\0\0\xc0\x7f")}[how]
        data[at:at + len(new)] = new
    reader.path.write_bytes(data)


@pytest.mark.parametrize("how", ["pixels", "frame", "label"])
@pytest.mark.parametrize("workers", [0, 2])
def test_skipped_records_are_replaced_by_the_next_readable_image(tmp_path, caplog, how, workers):
    labels = write_records(tmp_path / "train", [10] * 5)
    whole = FaceRecords(tmp_path, 16)
    expected = [whole[i][0] for i in range(50)]
    corrupt(tmp_path, 9, 10, 30, 49, how=how)                   # two in a row across a class, one alone, the last
    with pytest.raises(UserError, match="record (10|50) "):
        list(ordered_loader(FaceRecords(tmp_path, 16), 8, 0, 1, workers))
    taken = {9: 11, 10: 11, 30: 31, 49: 0}
    loader = ordered_loader(FaceRecords(tmp_path, 16, bad_records="skip"), 8, 0, 1, workers)
    for k, (images, found, index) in enumerate(loader):
        right = [taken.get(i, i) for i in range(8 * k, min(8 * k + 8, 50))]
        assert index.tolist() == right and found.tolist() == [labels[i] for i in right]
        assert all(np.array_equal(image, expected[i]) for image, i in zip(images.numpy(), right, strict=True))
    assert (loader.bad_records.replaced, loader.bad_records.seen) == (4, 50)
    for key in (10, 11, 31, 50):
        assert f"{tmp_path / 'train.rec'}: record {key} " in caplog.text
    image, label, index = FaceRecords(tmp_path, 16, bad_records="skip")[9]
    assert (label, index) == (labels[11], 11) and np.array_equal(image, expected[11])


def test_a_corrupt_header_has_the_label_of_the_replacement(tmp_path):
    labels = write_records(tmp_path / "train", [10] * 5)
    corrupt(tmp_path, 9, 49, how="frame")
    assert FaceRecords(tmp_path, 16, bad_records="skip").labels().tolist() == labels[:9] + [1] + labels[10:49] + [0]


def test_too_many_bad_records_end_the_run(tmp_path, caplog):
    write_records(tmp_path / "train", [150] * 2)
    corrupt(tmp_path, *range(0, 22, 2))
    for batch in (10, 300):
        with pytest.raises(UserError, match="^11 of .* more than 1 % .and more than 10.; the last: .*record 21 at byte"):
            list(ordered_loader(FaceRecords(tmp_path, 16, bad_records="skip"), batch, 0, 1, 0))
    named = [line for line in caplog.text.splitlines() if "takes its place" in line]
    assert len(named) == 2 * 5 and caplog.text.count("8 bad records so far") == 2
    counts = BadRecords()
    for _ in range(50):                     # 20 of 2,000 is 1 %, one more is more
        counts.add(100 - 60, {0: "bad"} if counts.replaced < 10 else {})
    for k in range(10):
        counts.add(0, {k: "bad"})
    with pytest.raises(UserError, match="21 of 2000 images"):
        counts.add(0, {99: "the last"})


def test_a_file_of_bad_records_has_no_replacement(tmp_path):
    write_records(tmp_path / "train", [3])
    corrupt(tmp_path, 0, 1, 2)
    with pytest.raises(UserError, match="record 1 .* none among the next 2"):
        FaceRecords(tmp_path, 16, bad_records="skip")[0]
