"""tools/check sees old features that are in another order than the images of the record file; and a small /dev/shm."""

from types import SimpleNamespace

import numpy as np
import pytest

from tools.check import resource_rows
from utils.origin import load_origin, save_array

SD = "f128_r18_softmax_class70"
CONFIG = "BCT_Methods/L2/configs/OPclass_ms1mv3_r18_to_r50_L2_softmax_to_arc_f128.py"


def exchange(file, change) -> None:
    """Write the changed array as if it had been made so."""
    save_array(file, change(np.load(file)), {key: value for key, value in load_origin(file).items()
                                             if key in ("model", "records", "images")})


def test_features_in_order(run_check, check_folder):
    rows, end = run_check(check_folder, CONFIG)
    assert end is None
    (verdict, found), = rows["order of rows"]
    assert verdict == "ok" and "100.0 % of 37 sampled rows of 5 classes are nearest to the mean of their own class" in found


def permuted(array):
    return np.random.default_rng(1).permutation(array)


def sorted_by_name(array):
    return array[np.argsort([str(i) for i in range(len(array))])]


def by_another_machine_first(array):
    return np.concatenate([array[15:], array[:15]])


@pytest.mark.parametrize("change, also_labels", [(permuted, False), (by_another_machine_first, False), (permuted, True),
                                                 (by_another_machine_first, True), (sorted_by_name, True)])
def test_features_in_another_order(run_check, wrong, check_copy, change, also_labels):
    """With their labels they agree with themselves, and not with the images."""
    exchange(check_copy / f"save/OPclass/{SD}_feature.npy", change)
    if also_labels:
        exchange(check_copy / f"save/OPclass/{SD}_label.npy", change)
    rows, _ = run_check(check_copy, CONFIG)
    (verdict, found), = rows["order of rows"]
    if also_labels:
        assert verdict == "wrong" and "of 41 rows: the features are in another order than the images" in found
    else:
        assert wrong(rows) == {} and verdict == "warning"
        assert "look as if they were in another order than the labels" in found


def test_rows_that_were_never_written(run_check, wrong, check_copy):
    def cut(array):
        array[-1] = 0
        return array
    exchange(check_copy / f"save/OPclass/{SD}_feature.npy", cut)
    rows, _ = run_check(check_copy, CONFIG)
    assert "holds a row of zeros" in wrong(rows)["old_feature"] and "order of rows" not in rows


@pytest.mark.parametrize("size, ranks, verdict", [
    (64 << 20, 8, "warning"), (64 << 20, 1, "ok"), (10**9, 8, "ok"), (0, 2, "warning")])
def test_shared_memory_of_a_container(monkeypatch, size, ranks, verdict):
    monkeypatch.setattr(resource_rows.os, "statvfs", lambda _: SimpleNamespace(f_blocks=size, f_frsize=1))
    found, how = resource_rows.look_at_shared_memory(ranks)
    assert how == verdict and f"{1e-9 * size:.2f} GB" in found and ("--shm-size=1g" in found) == (how == "warning")


def test_no_shared_memory_at_all(monkeypatch, tmp_path):
    monkeypatch.setattr(resource_rows, "SHARED_MEMORY", tmp_path / "shm")
    assert [resource_rows.look_at_shared_memory(ranks)[1] for ranks in (1, 2)] == ["ok", "warning"]
