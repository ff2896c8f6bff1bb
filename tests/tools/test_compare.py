"""The command on an IJB folder and on feature files: page, tables, lists."""

import csv
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from toy import write_ijb
from toy_comparison import run_compare

from backbones import get_model
from tools.compare.tables import tables_of
from utils.errors import UserError

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.fixture(scope="module")
def result(people, tmp_path_factory) -> Path:
    """A comparison with everything in it."""
    out = tmp_path_factory.mktemp("result")
    with pytest.MonkeyPatch.context() as patch:
        run_compare(patch, "-d", people, "--old", f"old={people / 'old'}", "--new", f"new={people / 'new'}",
                    f"six={people / 'six'}", "--paragon", f"turned={people / 'turned'}", "--old-features",
                    people / "old/train.npy", "--new-features", f"turned={people / 'turned/train.npy'}",
                    f"six={people / 'six/train.npy'}", "--backfill", 4, "--orders", 2, "--draws", 60,
                    "--title", "A <new> model", "--out", out)
    return out


def test_all_files_are_written_and_agree(result):
    report = json.loads((result / "compare.json").read_text())
    text = (result / "compare.txt").read_text()
    assert not list(result.glob("*.part"))
    assert report["headline"] == ["TAR@1e-1", "top-1", "TPIR@1e-1"]
    maps = {f"{name}+{kind}" for name in ("turned", "six") for kind in ("Procrustes", "ridge")}
    assert set(report["matrix"]["new"]) == {"old", "new", "turned"} and set(report["matrix"]["six"]) == {"six"}
    assert all(set(report["matrix"][name]) == {"old", name} for name in maps)
    assert set(report["upgrades"]) == {"new", "turned"} | maps and set(report["free"]) == maps
    assert report["upgrades"]["new"]["overall"] == "better" and report["upgrades"]["turned"]["overall"] == "worse"
    for table in tables_of(report):
        assert table.text() in text
        assert all(len(row) == len(table.columns) for row in table.rows), table.title
    assert "six has 6 dimensions, old has 8: its queries are compared through its maps, six+Procrustes and six+ridge" in text
    for name, upgrade in report["upgrades"].items():
        rows = list(csv.DictReader(open(result / f"flips_{name}.csv"))) if (result / f"flips_{name}.csv").is_file() else []
        for kind in [kind for kind in upgrade["flips"] if not kind.startswith("FAR")]:
            for flip in ("negative", "positive"):
                listed = sum(row["judged by"] == kind and row["flip"] == flip for row in rows)
                assert listed == upgrade["flips"][kind][flip], (name, kind, flip)


def test_free_maps_bring_queries_into_the_old_space(result):
    """The turned model's features are a rotation of the old space; the map turns them back and keeps their own figures."""
    report = json.loads((result / "compare.json").read_text())
    mapped, alone = report["matrix"]["turned+Procrustes"], report["matrix"]["turned"]
    assert mapped["old"]["top-1"]["value"] > alone["old"]["top-1"]["value"] + 0.3
    assert mapped["turned+Procrustes"]["top-1"]["value"] == pytest.approx(alone["turned"]["top-1"]["value"], abs=0.01)
    assert report["map errors"]["turned+Procrustes"] < 1e-6


def test_backfilling_goes_from_the_old_gallery_to_the_new_one(result):
    report = json.loads((result / "compare.json").read_text())
    for order, found in report["upgrades"]["new"]["backfill"].items():
        for metric in report["metrics"]:
            values = np.array(found["values"][metric])
            assert values[:, 0] == pytest.approx(report["matrix"]["new"]["old"][metric]["value"]), order
            assert values[:, -1] == pytest.approx(report["matrix"]["new"]["new"][metric]["value"]), order
        assert all(images[0] == 0 and images[-1] == 80 for images in found["images"].values())
    assert list(report["upgrades"]["new"]["backfill"]) == ["random", "lowest norm of the old feature first"]


def test_the_page_needs_no_other_file(result):
    page = (result / "index.html").read_text()
    assert "<h1>A &lt;new&gt; model</h1>" in page
    assert page.count("<img ") == len(list(result.glob("*.png"))) == page.count('src="data:image/png;base64,') > 10
    assert not re.search(r'(src|href)="(?!data:)', page) and "<script" not in page
    assert "http" not in re.sub(r"base64,[^\"]*", "", page)         # the letters of a picture can be any


class Parts(HTMLParser):
    """The page's elements and the text in each kind of them."""

    def __init__(self, page: str):
        super().__init__()
        self.open, self.text, self.alternatives = [], {}, []
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.open.append(tag)
        self.text.setdefault(tag, []).append("")
        self.alternatives += [value for key, value in attributes if key == "alt"]

    def handle_endtag(self, tag):
        while self.open.pop() != tag:       # meta and img have no end
            pass

    def handle_data(self, data):
        if self.open:
            self.text[self.open[-1]][-1] += data


def test_names_are_shown_as_text_whatever_is_in_them(people, tmp_path, monkeypatch):
    """A name, a title or a file with <, & or quotes is in the page as it was written, and makes no element of its own."""
    title, old, new = '<script>alert("old & new")</script>', "<i>&amp;", 'n"e\'w<b'
    run_compare(monkeypatch, "-d", people, "--old", f"{old}={people / 'old'}", "--new", f"{new}={people / 'new'}", "--title",
                title, "--backfill", 0, "--draws", 0, "--out", tmp_path)
    found, report = Parts((tmp_path / "index.html").read_text()), json.loads((tmp_path / "compare.json").read_text())
    assert found.text["title"] == found.text["h1"] == [title] and not {"script", "i"} & found.text.keys()
    assert found.text["b"] == ["Warning", old, new][-len(found.text["b"]):] and found.text["code"] == [report["command"]]
    assert f"ROC of {new}" in found.alternatives and f"ROC of {new}" in found.text["figcaption"]
    assert f"on the gallery of {old}" in found.text["th"] and f"{new} / {old}" in found.text["td"]
    assert f"1:N: new queries on the gallery of {old} at today's threshold and at a new one, in %" in found.text["h3"]


@pytest.mark.skipif(BROWSER is None, reason="no Chromium or Chrome on this machine")
@pytest.mark.parametrize("width", [390, 1280])
def test_the_page_in_a_browser(result, tmp_path, width):
    """Every picture decodes, no script fails, and a phone need not scroll sideways."""
    probe = ("<script>onerror = e => document.title = e; onload = () => document.title = [[...document.images].filter("
             "i => i.complete && i.naturalWidth > 0).length, document.images.length, "
             "document.documentElement.scrollWidth <= innerWidth]</script></body>")
    page = (result / "index.html").read_text()
    (tmp_path / "page.html").write_text(page.replace("</body>", probe))
    done = subprocess.run([BROWSER, "--headless", "--no-sandbox", "--disable-gpu", f"--window-size={width},900", "--dump-dom",
                           f"--user-data-dir={tmp_path / 'profile'}", (tmp_path / "page.html").as_uri()],
                          capture_output=True, text=True, timeout=120)
    pictures = page.count("<img ")
    assert f"<title>{pictures},{pictures},true</title>" in done.stdout, done.stderr[-500:]


@pytest.mark.long
def test_an_ijb_folder_with_checkpoints_and_kept_embeddings(tmp_path, monkeypatch):
    write_ijb(tmp_path)
    torch.manual_seed(0)
    for name in ("old", "new"):
        torch.save(get_model("mbf", num_features=16, image_size=16).eval().state_dict(), tmp_path / f"{name}.pt")
    call = ["-d", tmp_path, "--backfill", 2, "--draws", 10, "--workers", 0, "--out", tmp_path / "out"]
    run_compare(monkeypatch, *call, "--old", f"old={tmp_path / 'old.pt'}:mbf", "--new", f"new={tmp_path / 'new.pt'}:mbf")
    first = json.loads((tmp_path / "out/compare.json").read_text())
    with pytest.raises(UserError, match="expected the network of"):
        run_compare(monkeypatch, *call[:-1], tmp_path / "other", "--old", f"old={tmp_path / 'old.pt'}:mbf", "--new",
                    f"new={tmp_path / 'new.pt'}")
    assert not (tmp_path / "other/embeddings").exists()            # refused before the first image is embedded
    kept = sorted((tmp_path / "out/embeddings").glob("*.npy"))
    times = [file.stat().st_mtime_ns for file in kept]
    assert len(kept) == 2 and first["evaluation"]["gallery images"]["1:N"] > 0
    assert list(first["upgrades"]["new"]["backfill"]) == ["random", "lowest norm of the old feature first"]   # scores are equal
    run_compare(monkeypatch, *call, "--old", f"old={tmp_path / 'old.pt'}:mbf", "--new", f"new={tmp_path / 'new.pt'}:mbf")
    assert [file.stat().st_mtime_ns for file in kept] == times              # no second embedding of the same images
    names = {version: next(f for f in kept if f.name.startswith(first["versions"][version]["fingerprint"][:16]))
             for version in ("old", "new")}
    run_compare(monkeypatch, *call, "--old", f"old={names['old']}", "--new", f"new={names['new']}")
    assert json.loads((tmp_path / "out/compare.json").read_text())["matrix"] == first["matrix"]


def test_a_sequence_of_versions(people, tmp_path, monkeypatch):
    run_compare(monkeypatch, "-d", people, "--old", f"v1={people / 'old'}", "--new", f"v2={people / 'new'}",
                f"v3={people / 'turned'}", "--sequence", "--backfill", 0, "--draws", 20, "--out", tmp_path)
    report = json.loads((tmp_path / "compare.json").read_text())
    assert report["AC"]["top-1"] == pytest.approx(1 / 3)            # v2 on v1; v3 is a rotation away from both
    assert set(report["matrix"]["v3"]) == {"v1", "v2", "v3"}
    drift = (tmp_path / "compare.txt").read_text().split("drift, queries of each version on the gallery of v1, in %")[1]
    for name in ("v1", "v2", "v3"):
        row = next(line for line in drift.splitlines() if f"| {name} " in line)
        assert f" {100 * report['matrix'][name]['v1']['top-1']['value']:.2f} |" in row


def test_few_pairs_no_intervals_and_the_files_of_an_earlier_run(people, tmp_path, monkeypatch, capsys):
    """Nine impostor pairs support no FAR; without bootstrap samples the page has no intervals; older files are removed."""
    folder = tmp_path / "copy"
    shutil.copytree(people, folder)
    pairs = np.load(folder / "pairs.npy")
    np.save(folder / "pairs.npy", np.concatenate([pairs[pairs[:, 2] == 1], pairs[pairs[:, 2] == 0][:9]]))
    call = ["-d", folder, "--old", f"old={folder / 'old'}", "--new", f"new={folder / 'new'}", "--out", tmp_path / "out"]
    run_compare(monkeypatch, *call, "--backfill", 2, "--draws", 20)
    assert "9 impostor pairs: the smallest FAR that they support is 0.111" in capsys.readouterr().out
    assert list((tmp_path / "out").glob("backfill_new_*.png")) and (tmp_path / "out/flips_new.csv").is_file()
    run_compare(monkeypatch, *call[:5], f"new={folder / 'old'}", *call[6:], "--backfill", 0, "--draws", 0)
    assert not list((tmp_path / "out").glob("backfill_*.png")) and not (tmp_path / "out/flips_new.csv").exists()
    page = (tmp_path / "out/index.html").read_text()
    assert "without intervals" in page and "95 %" not in page and "bootstrap" not in page


def test_the_answer_is_about_the_metric_that_was_chosen(people, tmp_path, monkeypatch, capsys):
    run_compare(monkeypatch, "-d", people, "--old", f"old={people / 'old'}", "--new", f"new={people / 'new'}", "--metrics",
                "TPIR@1e-1", "--draws", 20, "--backfill", 0, "--out", tmp_path)
    report = json.loads((tmp_path / "compare.json").read_text(), parse_constant=pytest.fail)
    row = report["upgrades"]["new"]["threshold"]["1:N"][-1]
    new = report["matrix"]["new"]["old"]["TPIR@1e-1"]["value"]
    text = capsys.readouterr().out
    assert text.splitlines()[-1] == f"wrote {tmp_path.resolve()}/index.html"
    shown = next(line for line in text.splitlines() if line.startswith("| new "))
    assert [cell.split()[0] for cell in shown.split("|")[3:5]] == [f"{100 * new:.2f}", f"{100 * row['mixed']:.2f}"]
    assert "TPIR@1e-1 in %" in text and "are from 20 bootstrap samples" in text


@pytest.mark.parametrize("kind", ["float16", "one view", "npz"])
def test_embeddings_in_other_files_give_the_same_figures(tmp_path, monkeypatch, kind):
    write_ijb(tmp_path)
    rows = np.random.default_rng(0).standard_normal((36, 8)).astype(np.float16)
    np.save(tmp_path / "plain.npy", np.stack([rows, rows]).astype(np.float32))
    other = tmp_path / ("other.npz" if kind == "npz" else "other.npy")
    if kind == "npz":
        np.savez(other, embs=rows.astype(np.float32), embs_f=rows.astype(np.float32))
    else:
        np.save(other, np.stack([rows, rows]) if kind == "float16" else rows.astype(np.float32))
    run_compare(monkeypatch, "-d", tmp_path, "--old", f"old={tmp_path / 'plain.npy'}", "--new", f"new={other}", "--backfill", 0,
                "--draws", 0, "--out", tmp_path / "out")
    matrix = json.loads((tmp_path / "out/compare.json").read_text())["matrix"]
    assert matrix["new"]["old"] == matrix["old"]["old"] == matrix["new"]["new"]
