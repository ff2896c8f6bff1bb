"""150 corrupt files per reader, and the files that once broke a reader; fuzz.py is the long run.

`bash test.sh -m slow` tries 20,000 files per reader, without coverage.
"""

import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from records.recordio import RecordReader
from utils.errors import UserError

sys.path.insert(0, str(Path(__file__).parent))
from memory import less_than
from targets import TARGETS, record_seeds, slow_record

CORPUS = Path(__file__).parent / "corpus"
GROWTH = 600            # MB by which the process may grow; OpenCV needs half of it for 2^25 pixels of 16 bits
QUICK = settings(max_examples=150, derandomize=True, deadline=5000, database=None, suppress_health_check=list(HealthCheck))
LONG = settings(QUICK, max_examples=20_000)
# Pieces of hostile files: lengths and numbers at their limits, and words that parsers know.
WORDS = [b"\xff" * 4, b"\x7f" + b"\xff" * 7, bytes(8), b"\n", b"\t", b"\0", b"-1", b"9" * 20, b"nan", b"1e9", b"/../", b"(",
         b"'O'", b"cos\nsystem\n", b"R", b"\x0a\x23\xd7\xce", b"\xff\xd9", b"\xff\xc0"]
EDITS = st.lists(st.tuples(st.sampled_from("set insert delete repeat".split()), st.floats(0, 1, exclude_max=True),
                           st.one_of(st.binary(min_size=1, max_size=6), st.sampled_from(WORDS))), max_size=4)


def corrupted(data: bytes, edits: list[tuple]) -> bytes:
    for kind, share, piece in edits:
        at = int(share * (len(data) + 1))
        if kind == "set":
            data = data[:at] + piece + data[at + len(piece):]
        elif kind == "insert":
            data = data[:at] + piece + data[at:]
        elif kind == "delete":
            data = data[:at] + data[at + 8 * len(piece):]
        else:
            data = data[:at] + data[max(at - 8 * len(piece), 0):]
    return data


def attack(name: str, folder: Path, effort: settings) -> None:
    target, seeds = TARGETS[name]
    valid = seeds(folder)
    assert all([target(data, folder) for data in valid])

    @effort
    @given(st.sampled_from(valid), EDITS)
    def one(data, edits):
        target(corrupted(data, edits), folder)

    with less_than(GROWTH):
        one()


@pytest.mark.long
@pytest.mark.parametrize("name", TARGETS)
def test_corrupt_files(name, tmp_path):
    attack(name, tmp_path, QUICK)


@pytest.mark.slow
@pytest.mark.parametrize("name", TARGETS)
def test_many_corrupt_files(name, tmp_path):
    attack(name, tmp_path, LONG)


@pytest.mark.parametrize("file", sorted(CORPUS.glob("*/*")), ids=lambda file: f"{file.parent.name}-{file.name}")
def test_files_that_once_broke_a_reader(file, tmp_path):
    with less_than(GROWTH):
        TARGETS[file.parent.name][0](file.read_bytes(), tmp_path)


@pytest.fixture(scope="module")
def seeds(tmp_path_factory) -> tuple[Path, list[bytes]]:
    """A folder to write to, and valid record files."""
    folder = tmp_path_factory.mktemp("frame")
    return folder, record_seeds(folder)


@QUICK
@given(st.data())
@pytest.mark.long
def test_a_corrupt_frame_is_an_error_or_harmless(seeds, data):
    """One bit of a record's frame or of the index is another one: each payload is the one that was written, or refused."""
    folder, valid = seeds
    idx, _, rec = data.draw(st.sampled_from(valid)).partition(b"\0")
    lines = [tuple(map(int, line.split())) for line in idx.splitlines()]
    expected = {key: slow_record(rec, offset) for key, offset in lines}
    row, bit = data.draw(st.integers(0, len(lines) - 1)), data.draw(st.integers(0, 31))
    key, offset = lines[row]
    place = data.draw(st.sampled_from(["magic", "length", "offset"]))
    if place == "offset":
        lines[row] = key, offset ^ 1 << bit
    else:
        words = np.frombuffer(rec, "<u4").copy()
        words[offset // 4 + (place == "length")] ^= np.uint32(1 << bit)
        rec = words.tobytes()
    (folder / "a.rec").write_bytes(rec)
    (folder / "a.idx").write_text("".join(f"{k}\t{at}\n" for k, at in lines))
    refused = 0
    for k, payload in expected.items():
        try:
            found = RecordReader(folder / "a", whole=False).read(k)
        except UserError:
            refused += 1
        else:       # zeros of the padding may look like data
            assert found == payload or found.rstrip(b"\0") == payload.rstrip(b"\0") and len(found) - len(payload) < 4
    assert refused or place == "length" and bit < 2
