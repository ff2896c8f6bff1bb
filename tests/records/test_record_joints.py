"""From the file to a batch: image, label and index belong together, whatever the file's order, the ranks and the workers."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from records import faces as faces_module
from records.faces import FaceRecords
from records.loader import OrderedBatches, ShuffledBatches, ordered_loader, train_loader
from records.recordio import RecordReader, RecordWriter, pack
from utils.errors import UserError

LABELS = [2, 0, 3, 1, 1, 3, 0, 2, 2, 1, 3, 3, 0, 1, 2, 0, 0, 3, 1, 2, 2, 3]        # in no order


def colour(i: int) -> tuple[int, int, int]:
    """Red, green, blue of image i: three different numbers, which no other image has."""
    return 11 * i, 255 - 5 * i, 3 * i + 100


def png(rgb: np.ndarray) -> bytes:
    return cv2.imencode(".png", rgb[:, :, ::-1])[1].tobytes()


def write_colours(prefix: Path, labels=LABELS, size: int = 8, keys=None) -> FaceRecords:
    """A record file without header, image i of one colour; ``keys``: its records' keys, in the order of the file."""
    with RecordWriter(prefix) as writer:
        for i, label in enumerate(labels):
            writer.write(i if keys is None else keys[i], pack(label, png(np.full((size, size, 3), colour(i), np.uint8)), i, 0))
    return FaceRecords(prefix)


def check(batch, labels=LABELS) -> list[int]:
    """Every image of a batch has the colour of its index and the label of its index; the index."""
    images, found, index = (part.numpy() for part in batch)
    assert len(images) == len(found) == len(index) > 0
    for image, label, i in zip(images, found.tolist(), index.tolist(), strict=True):
        assert label == labels[i] and (image == colour(i)).all(), i
    return index.tolist()


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("keys", [None, [40 - k for k in range(22)], [*range(11, 22), *range(11)]])
def test_index_label_and_image_belong_together(tmp_path, keys, workers):
    """Keys that are the rows, that go down, and that are rows of other images."""
    faces = write_colours(tmp_path / "train", keys=keys)
    assert faces.labels().tolist() == LABELS == [faces.label(i) for i in range(22)]
    everything = sum((check(batch) for batch in ordered_loader(faces, 5, 0, 1, workers)), [])
    assert everything == list(range(22))
    for world_size in (1, 2, 3):
        seen = []
        for rank in range(world_size):
            loader = train_loader(faces, 3, rank, world_size, seed=1, workers=workers)
            loader.set_epoch(4)
            seen += sum((check(batch) for batch in loader), [])
        assert len(seen) == len(set(seen)) == 22 // (3 * world_size) * 3 * world_size


def test_images_are_shrunk_by_the_mean_of_their_pixels(tmp_path):
    """image_size wins over the file's own: 24 x 24 pixels become the means of blocks of 3 x 3."""
    rgb = np.random.default_rng(0).integers(0, 256, (24, 24, 3)).astype(np.uint8)
    with RecordWriter(tmp_path / "train") as writer:
        writer.write(0, pack(0, png(rgb), 0, 0))
    assert FaceRecords(tmp_path).image_size == 24 and np.array_equal(FaceRecords(tmp_path)[0][0], rgb)
    small = FaceRecords(tmp_path, image_size=8)
    means = rgb.reshape(8, 3, 8, 3, 3).mean((1, 3))
    assert small.image_size == 8 and np.abs(small[0][0] - means).max() <= 0.51
    assert FaceRecords(tmp_path, image_size=48)[0][0].shape == (48, 48, 3)


def orders(seed: int, epoch: int, images: int = 50, batch_size: int = 4, world_size: int = 2, seen: int = 0) -> np.ndarray:
    """[ranks, steps, batch_size] of an epoch, as the ranks' samplers give it."""
    found = []
    for rank in range(world_size):
        batches = ShuffledBatches(images, batch_size, rank, world_size, seed)
        batches.epoch, batches.seen = epoch, seen
        found.append(list(batches))
        assert len(batches) == images // (batch_size * world_size)
    return np.array(found)


def test_the_order_follows_from_seed_and_epoch():
    first = orders(0, 0)
    assert np.array_equal(orders(0, 0), first) and len(np.unique(first)) == first.size == 48
    for other in (orders(1, 0), orders(0, 1)):
        assert (other != first).mean() > 0.8 and len(np.unique(other)) == 48
    assert (first.transpose(1, 0, 2).reshape(-1) != np.arange(48)).mean() > 0.8


def test_an_epoch_continues_behind_the_images_that_were_seen():
    """2 ranks with batches of 4 saw 24 of 48 images: the rest keeps its order, for other ranks and batches, too."""
    straight = orders(0, 3).transpose(1, 0, 2).reshape(-1)
    for world_size, batch_size in ((2, 4), (1, 4), (3, 2), (1, 8)):
        rest = orders(0, 3, batch_size=batch_size, world_size=world_size, seen=24).transpose(1, 0, 2).reshape(-1)
        assert rest.tolist() == straight[24:24 + len(rest)].tolist() and len(rest) >= 18


def test_a_loader_hands_epoch_and_seen_images_to_its_sampler(tmp_path):
    loader = train_loader(write_colours(tmp_path / "train"), 3, 1, 2, seed=5, workers=0)
    loader.set_epoch(2, seen=6)
    found = sum((check(batch) for batch in loader), [])
    assert found == orders(5, 2, images=22, batch_size=3, seen=6)[1].reshape(-1).tolist()


@pytest.mark.parametrize("images, batch_size, world_size", [(22, 5, 3), (3, 5, 2), (10, 5, 2), (1, 1, 3)])
def test_ordered_batches_are_divided_over_the_ranks(images, batch_size, world_size):
    ranks = [list(OrderedBatches(images, batch_size, rank, world_size)) for rank in range(world_size)]
    assert sorted(i for batches in ranks for batch in batches for i in batch) == list(range(images))
    for rank, batches in enumerate(ranks):
        assert [int(batch[0]) // batch_size % world_size for batch in batches] == [rank] * len(batches)
        assert len(OrderedBatches(images, batch_size, rank, world_size)) == len(batches)
        assert all(batch[0] % batch_size == 0 and (np.diff(batch) == 1).all() for batch in batches)


def test_labels_are_read_in_chunks(tmp_path, monkeypatch):
    """Whole chunks, a short one at the end; what is wrong with a label names the record of its own chunk."""
    faces = write_colours(tmp_path / "train")
    for chunk in (1, 4, 21, 22, 100):
        monkeypatch.setattr(faces_module, "CHUNK", chunk)
        assert faces.labels().tolist() == LABELS
    monkeypatch.setattr(faces_module, "CHUNK", 4)
    with RecordWriter(tmp_path / "wrong") as writer:
        writer.write(0, pack([23, 4], b"", 0, 0))
        for i, label in enumerate(LABELS):
            writer.write(i + 1, pack([9 if i == 14 else label, 0], png(np.zeros((8, 8, 3), np.uint8)), i, 0))
    with pytest.raises(UserError, match="record 15 has label 9"):
        FaceRecords(tmp_path / "wrong").labels()
    skipped = FaceRecords(tmp_path / "wrong", bad_records="skip").labels()
    assert skipped.tolist() == [*LABELS[:14], LABELS[15], *LABELS[15:]]


def fingerprint_of(folder: Path, rec: bytes, idx: str) -> str:
    """The fingerprint of a file of these bytes, in a folder of its own."""
    folder.mkdir()
    (folder / "a.rec").write_bytes(rec)
    (folder / "a.idx").write_text(idx)
    return RecordReader(folder / "a").fingerprint()


def test_a_fingerprint_sees_both_ends_and_the_index_of_a_large_file(tmp_path):
    """Four records of 90,000 bytes: the first and last 65,536 bytes, and what the .idx says, count."""
    with RecordWriter(tmp_path / "a") as writer:
        for key in range(4):
            writer.write(key, bytes([key]) * 90_000)
    rec, idx = (tmp_path / "a.rec").read_bytes(), (tmp_path / "a.idx").read_text()
    base = fingerprint_of(tmp_path / "same", rec, idx)
    assert base == RecordReader(tmp_path / "a").fingerprint()

    def changed(at: int) -> bytes:
        return rec[:at] + bytes([rec[at] ^ 1]) + rec[at + 1:]
    others = {fingerprint_of(tmp_path / f"byte{number}", changed(at), idx)
              for number, at in enumerate((9, 65_535, len(rec) - 65_536, len(rec) - 1))}
    assert len(others | {base}) == 5
    keys, offsets = zip(*(line.split("\t") for line in idx.splitlines()), strict=True)
    swapped = "".join(f"{key}\t{offset}\n" for key, offset in zip((*keys[1::-1], *keys[2:]), offsets, strict=True))
    assert fingerprint_of(tmp_path / "keys", rec, swapped) != base              # other names for the same bytes
    fewer = "".join(f"{key}\t{offset}\n" for key, offset in zip((0, 1, 3), (offsets[0], offsets[1], offsets[3]), strict=True))
    more = "".join(f"{key}\t{offset}\n" for key, offset in zip((0, 1, 3), (offsets[0], offsets[2], offsets[3]), strict=True))
    assert len({base, fingerprint_of(tmp_path / "fewer", rec, fewer), fingerprint_of(tmp_path / "more", rec, more)}) == 3


def test_only_a_set_that_skips_bad_records_opens_a_file_that_was_cut(tmp_path):
    write_colours(tmp_path / "train")
    whole = (tmp_path / "train.rec").read_bytes()
    (tmp_path / "train.rec").write_bytes(whole[:-8])
    with pytest.raises(UserError, match="record 21 at byte .* runs past the end"):
        FaceRecords(tmp_path / "train")
    image, label, index = FaceRecords(tmp_path / "train", bad_records="skip")[21]
    assert (label, index) == (LABELS[0], 0) and (image == colour(0)).all()
