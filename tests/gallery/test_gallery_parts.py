"""Parts of the gallery that need no store, by hand."""

import json

import numpy as np
import pytest

from gallery.journal import MAX_BYTES, range_rows
from gallery.names import suffix
from gallery.plan import days
from gallery.store import hidden, ordered


def test_days_by_hand():
    # 4 workers of 50 images/s embed 1,728,000 images in 0.1 days; 100 writes/s need 0.2 days and are the limit.
    assert days(1_728_000, 50, 100, 4) == pytest.approx({"embedding": 0.1, "writing": 0.2, "together": 0.2})
    assert days(1_728_000, 50, 2000, 4)["together"] == pytest.approx(0.1 + 0.01 / 4)


def test_ranges_hold_every_id_once_and_fit_into_a_text_of_milvus():
    for ids in (list(range(5)), list(range(12_345)), ["x" * 1000 + str(row) for row in range(3000)]):
        rows = range_rows(ids, 4, 100)
        assert [entry for row in rows for entry in json.loads(row["ids"])] == ids
        assert [row["number"] for row in rows] == list(range(4, 4 + len(rows)))
        assert rows[0]["place"] == 100 and rows[-1]["place"] + rows[-1]["size"] == 100 + len(ids)
        assert max(len(row["ids"].encode()) for row in rows) <= MAX_BYTES and max(row["size"] for row in rows) <= 1000


def test_names_of_versions_become_names_of_tables():
    assert suffix("MixBCT+ridge") == "__MixBCT_ridge"
    assert len(suffix("x" * 60)) == 22 and suffix("x" * 59) != suffix("x" * 60)


def test_rows_are_brought_into_the_order_of_other_ids():
    assert ordered([3, 1, 2], [1, 2, 3], np.array([[30], [10], [20]])).tolist() == [[10], [20], [30]]
    assert ordered([3, 1, 2], [2], np.array([[30], [10], [20]])).tolist() == [[20]]


def test_messages_hide_a_password():
    assert hidden("postgresql://me:secret@host/data") == "postgresql://me@host/data" and hidden("a/folder") == "a/folder"
