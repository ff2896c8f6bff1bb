"""The whole way in each store: search before, re-embed with two kills, search on the way, roll back, re-embed, finish."""

import json
import os
import signal

import numpy as np
import pytest
from gallery_toys import FARS, NEW, OLD, People, fill, rows_of, write_upgrade
from processes import start

from gallery.names import load_upgrade, names_of
from gallery.order import hashed
from gallery.search import Searcher
from gallery.store import open_store
from serving.upgrade import unit
from tools.gallery import gallery

pytestmark = pytest.mark.long
TOP = 5
QUERIES = np.arange(0, 1000, 10)        # of which half are of people in the gallery


def command(*words) -> None:
    """gallery.py with these words, in this process."""
    import sys
    sys.argv = ["gallery.py", *map(str, words)]
    gallery.main()


def killed(words: list, method: str, calls: int) -> None:
    """gallery.py in a process that dies when it calls the ``calls``-th time this method of the store."""
    store = type(open_store(words[words.index("--store") + 1]))
    original, count = getattr(store, method), [0]

    def counted(*args, **kwargs):
        count[0] += 1
        if count[0] == calls:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*args, **kwargs)
    setattr(store, method, counted)
    command(*words)


def answers(uri, upgrade, queries, query=NEW) -> list[list[tuple]]:
    """(id, version, score, value, accepted) of the best hits of each query."""
    store = open_store(uri)
    found = Searcher(store, upgrade, names_of(store, upgrade, NEW, "gallery"), query, NEW)(queries, TOP, FARS[0])
    return [[(hit.id, hit.version, hit.score, hit.value, hit.accepted) for hit in hits] for hits in found]


def expected(people, upgrade, ids, done) -> tuple[list, np.ndarray]:
    """(ids of the best hits, their values [Q, TOP]) by dense products in float64.  done: bool [people], the new entries."""
    values = np.empty((len(QUERIES), people.count))
    for rows, gallery_rows, version in ((done, people.new, NEW), (~done, people.old, OLD)):
        view = upgrade.view(people.new_query[QUERIES], NEW, version).astype(float)
        values[:, rows] = upgrade.comparable(view @ unit(gallery_rows[rows].astype(float)).T, NEW, version)
    best = np.argsort(-values, axis=1, kind="stable")[:, :TOP]
    return [[ids[row] for row in rows] for rows in best], np.take_along_axis(values, best, 1)


def compare_with_dense(people, upgrade, ids, uri, share) -> float:
    """Compare search with the dense computation at a share; the share of the people in the gallery who are found first."""
    order = sorted(range(people.count), key=lambda row: hashed(ids[row]))
    done = np.zeros(people.count, bool)
    done[order[:round(share * people.count)]] = True
    best, values = expected(people, upgrade, ids, done)
    found = answers(uri, upgrade, people.new_query[QUERIES])
    np.testing.assert_allclose([[hit[3] for hit in hits] for hits in found], values, atol=1e-4)     # 1e-6 of a cosine times 20
    mates = [ids[row] for row in QUERIES if row < people.count // 2]
    top = [hits[0][0] == mate for hits, mate in zip(found, mates, strict=False)]
    assert top == [row[0] == mate for row, mate in zip(best, mates, strict=False)]
    return float(np.mean(top))


def test_the_whole_way(kind, uri, tmp_path, capsys):
    people = People()
    ids, upgrade_file = people.ids(), write_upgrade(tmp_path, people)
    upgrade = load_upgrade(upgrade_file)
    fill(kind, uri, ids, people.old)
    np.save(tmp_path / "new.npy", people.new)
    (tmp_path / "ids.txt").write_text("\n".join(ids))
    before, first = rows_of(kind, uri, "gallery"), answers(uri, upgrade, people.new_query[QUERIES])
    given = ["--store", uri, "--upgrade", upgrade_file, "--vectors", tmp_path / "new.npy", "--ids", tmp_path / "ids.txt"]
    figures = [compare_with_dense(people, upgrade, ids, uri, 0)]
    command("plan", *given, "--rate", 200)
    assert "1,000 have an image or vector" in capsys.readouterr().out

    words = ["reembed", *map(str, given), "--lease", "1"]
    for method, calls in (("delete", 3), ("copy", 4)):         # between new and old; between kept and new
        process = start(killed, [*words, "--share", "0.3"], method, calls)
        process.join()
        assert process.exitcode == -signal.SIGKILL
        here, there = (set(rows_of(kind, uri, name)) for name in ("gallery", "gallery__new"))
        assert here | there == set(ids)
    import time
    time.sleep(1.1)                                             # the lease of the killed worker
    capsys.readouterr()
    for share in (0.1, 0.3, 0.7, 1):                            # 0.1: less than the killed runs have done
        command("reembed", *given, "--share", share, "--json")
        counts = json.loads(capsys.readouterr().out.splitlines()[-1])
        if share > 0.1:
            assert counts["old"] == 1000 - 1000 * share and counts["new"] == 1000 * share
            figures.append(compare_with_dense(people, upgrade, ids, uri, share))
    assert figures[-1] > figures[0]

    now = rows_of(kind, uri, "gallery__new")
    assert set(now) == set(ids) and not rows_of(kind, uri, "gallery")
    for row, entry in enumerate(ids):
        assert np.array_equal(np.float32(now[entry]["vector"]), people.new[row])
        assert {k: v for k, v in now[entry].items() if k != "vector"} == {k: v for k, v in before[entry].items() if k != "vector"}
    command("rollback", "--store", uri)
    assert rows_of(kind, uri, "gallery") == before and answers(uri, upgrade, people.new_query[QUERIES]) == first
    assert open_store(uri).tables() == ["gallery"]

    command("reembed", *given)
    command("finish", "--store", uri, "--yes")
    assert open_store(uri).tables() == ["gallery__new"] and compare_with_dense(people, upgrade, ids, uri, 1) == figures[-1]
    command("status", "--store", uri)
    assert "no re-embedding" in capsys.readouterr().out
