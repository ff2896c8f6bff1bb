"""The loaders: the same batches for any number of workers and ranks, each image once, epochs that can be left."""

import time

import pytest
import torch
from toy import write_records

from records.faces import FaceRecords
from records.loader import ordered_loader, train_loader
from utils.errors import UserError


def batches(loader) -> list[tuple]:
    return [tuple(part.clone() for part in batch) for batch in loader]


def same(found: list[tuple], expected: list[tuple]) -> bool:
    return len(found) == len(expected) and all(
        torch.equal(a, b) for x, y in zip(found, expected, strict=True) for a, b in zip(x, y, strict=True))


def test_one_worker_is_four_workers(tmp_path):
    write_records(tmp_path / "train", [10] * 5)
    faces = FaceRecords(tmp_path)
    for epoch in (0, 1):
        found = []
        for workers in (0, 1, 4):
            loader = train_loader(faces, 7, 0, 1, seed=3, workers=workers)
            loader.set_epoch(epoch)
            found.append(batches(loader))
        assert same(found[0], found[1]) and same(found[0], found[2])


def test_two_ranks_see_the_global_batches_of_one(tmp_path):
    write_records(tmp_path / "train", [10] * 5)
    faces = FaceRecords(tmp_path)
    one = batches(train_loader(faces, 8, 0, 1, seed=3, workers=0))
    ranks = [batches(train_loader(faces, 4, rank, 2, seed=3, workers=0)) for rank in range(2)]
    joined = [tuple(torch.cat(parts) for parts in zip(*step, strict=True)) for step in zip(*ranks, strict=True)]
    assert same(joined, one)
    seen = torch.cat([index for *_, index in one]).tolist()
    assert len(seen) == len(set(seen)) == 48


def test_epochs_differ_and_a_persistent_loader_keeps_up(tmp_path):
    write_records(tmp_path / "train", [10] * 5)
    loader = train_loader(FaceRecords(tmp_path), 10, 0, 1, seed=3, workers=2)
    orders = []
    for epoch in (0, 1, 0):
        loader.set_epoch(epoch)
        orders.append(torch.cat([index for *_, index in loader]).tolist())
    assert orders[0] != orders[1] and orders[0] == orders[2] and sorted(orders[1]) == list(range(50))


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_ordered_batches_are_whole_and_cover_everything(tmp_path, world_size):
    write_records(tmp_path / "train", [10] * 5)
    faces = FaceRecords(tmp_path)
    found = {}
    for rank in range(world_size):
        for _, _, index in ordered_loader(faces, 8, rank, world_size, workers=0, skip={1}):
            batch = int(index[0]) // 8
            assert batch % world_size == rank
            found[batch] = index.tolist()
    assert found == {k: list(range(8 * k, min(8 * k + 8, 50))) for k in (0, 2, 3, 4, 5, 6)}


def test_the_number_of_workers_draws_nothing_from_the_global_generator(tmp_path):
    write_records(tmp_path / "train", [10] * 5)
    faces, drawn = FaceRecords(tmp_path), []
    for workers in (0, 2):
        loader = train_loader(faces, 10, 0, 1, seed=3, workers=workers)
        for epoch in (0, 1):                # the second time, persistent workers are not started again
            torch.manual_seed(epoch)
            batches(loader)
            drawn.append(torch.rand(()).item())
    assert drawn[:2] == drawn[2:]


def test_leaving_an_epoch_early_leaves_no_batch_behind(tmp_path):
    write_records(tmp_path / "train", [10] * 5)
    loader = train_loader(FaceRecords(tmp_path), 5, 0, 1, seed=3, workers=2)
    whole = batches(loader)
    next(iter(loader))
    assert same(batches(loader), whole)


def test_many_batches_pass_through_few_slots(tmp_path):
    """Two workers ahead of a slow consumer: 70 batches through 10 slots, each as the file has it, and so the one before."""
    write_records(tmp_path / "train", [50, 90])
    faces = FaceRecords(tmp_path)
    expected = batches(ordered_loader(faces, 2, 0, 1, workers=0))
    assert len(expected) == 70
    before = None
    for number, found in enumerate(ordered_loader(faces, 2, 0, 1, workers=2)):
        time.sleep(0.005)
        assert same([found], [expected[number]]), number
        assert before is None or same([before], [expected[number - 1]]), number
        before = found


def test_too_few_images_for_a_step(tmp_path):
    write_records(tmp_path / "train", [4, 1, 6, 3])
    with pytest.raises(UserError, match="14 images, a step needs 16"):
        train_loader(FaceRecords(tmp_path), 8, 0, 2, 0, 0)
