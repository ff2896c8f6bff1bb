"""The readers of other people's files that are fuzzed, with small valid files to start from.

A target reads ``data`` as its file and returns whether it was accepted.  It raises an AssertionError if the contents differ
from an independent, slow reading, and lets every exception through but UserError and the documented ValueError.
"""

import io
import pickle
import pickletools
import re
import sys
import zipfile
from pathlib import Path

import numpy as np
import torch

sys.path[:0] = [str(Path(__file__).resolve().parents[2]), str(Path(__file__).resolve().parents[1])]
from backbones.weights import load_state
from evaluation.protocol import read_images, read_pairs, read_search
from records.bins import load_bin
from records.faces import FaceRecords
from records.images import decode
from records.recordio import MAGIC_BYTES, RecordReader, RecordWriter, pack
from utils.arrays import open_npy, read_npz
from utils.errors import UserError
from utils.opencv import MAX_PIXELS, cv2

META = ["face_tid_mid.txt", "name_5pts_score.txt", "template_pair_label.txt", "1N_gallery_G1.csv", "1N_gallery_G2.csv",
        "1N_probe_mixed.csv"]


def tiny(kind: str = ".jpg", number: int = 0, side: int = 8) -> bytes:
    return cv2.imencode(kind, np.random.default_rng(number).integers(0, 256, (side, side, 3), np.uint8))[1].tobytes()


# Records: the .idx, a NUL, the .rec.

def written(folder: Path, payloads: dict[int, bytes]) -> bytes:
    with RecordWriter(folder / "seed") as writer:
        for key, payload in payloads.items():
            writer.write(key, payload)
    return (folder / "seed.idx").read_bytes() + b"\0" + (folder / "seed.rec").read_bytes()


def record_seeds(folder: Path) -> list[bytes]:
    images = {key: pack([(key - 1) // 2, key], tiny(number=key), key, 0) for key in range(1, 5)}
    return [written(folder, {0: b"first", 1: b"ab" + MAGIC_BYTES, 2: b"abcd" + MAGIC_BYTES * 2 + b"e", 3: b""}),
            written(folder, {0: pack([5, 2], b"", 0, 0), **images}),
            written(folder, {0: pack([5, 7], b"", 0, 0), **images, 5: pack([1, 3], b"", 5, 0), 6: pack([3, 5], b"", 6, 0)}),
            written(folder, {key: pack(key, tiny(number=key), key, 0) for key in (2, 0, 1)})]


def records(data: bytes, folder: Path) -> bool:
    idx, _, rec = data.partition(b"\0")
    (folder / "a.idx").write_bytes(idx)
    (folder / "a.rec").write_bytes(rec)
    faces(folder)
    try:
        reader = RecordReader(folder / "a", whole=False)
    except UserError:
        return False
    lines = [[word.strip() for word in line.split("\t")] for line in io.StringIO(idx.decode("ascii"), newline=None)
             if line.strip()]
    assert [(int(key), int(offset)) for key, offset in lines] == list(zip(reader.keys, reader.offsets, strict=True))
    good = 0
    for key, offset in lines:
        try:
            found = reader.read(int(key))
        except UserError:
            continue
        assert found == slow_record(rec, int(offset))
        good += 1
        try:
            first = reader.first_labels([int(key)])[0]
        except UserError:
            continue
        at = 24 if any(found[:4]) else 4        # after the header if it has a flag, else in it
        assert np.float32(first).tobytes() == found[at:at + 4]
    return good == len(lines)


def slow_record(rec: bytes, offset: int) -> bytes:
    """One record by the specification: magic, flag and length, data, padding; parts joined by the magic word."""
    out, flag = None, 1
    while flag in (1, 2):
        assert rec[offset:offset + 4] == MAGIC_BYTES
        word = int.from_bytes(rec[offset + 4:offset + 8], "little")
        flag, length = word // 2**29, word % 2**29
        assert flag in ((0, 1) if out is None else (2, 3)) and offset + 8 + length <= len(rec)
        part = rec[offset + 8:offset + 8 + length]
        out = part if out is None else out + MAGIC_BYTES + part
        offset += 8 + length + -length % 4
    return out


def faces(folder: Path) -> None:
    """For a bad record, bad_records = "skip" reads the next image that "stop" can read."""
    try:
        stop, skip = (FaceRecords(folder / "a", 8, bad_records=how) for how in ("stop", "skip"))
    except UserError:
        return
    alone = []
    for i in range(min(len(stop), 8)):
        try:
            alone.append(stop[i])
        except UserError:
            alone.append(None)
    if len(stop) <= 8 and any(alone):
        for i in range(len(stop)):
            image, label, index = skip[i]
            expected = next(j % len(alone) for j in range(i, i + len(alone)) if alone[j % len(alone)])
            assert index == expected and label == alone[expected][1] and np.array_equal(image, alone[expected][0])


# Images

def image_seeds(_folder: Path) -> list[bytes]:
    return [tiny(kind, side=side) for kind in (".jpg", ".png", ".bmp", ".webp") for side in (4, 17)]


def images(data: bytes, _folder: Path) -> bool:
    try:
        image = decode(data)
    except ValueError:
        return False
    assert image.dtype == np.uint8 and image.ndim == 3 and image.size <= 3 * MAX_PIXELS
    return True


# Verification sets

def bin_seeds(_folder: Path) -> list[bytes]:
    encoded = [tiny(number=k, side=4) for k in range(2)] * 10
    arrays, same = [np.frombuffer(item, np.uint8) for item in encoded[:2]] * 10, [True, False] * 5
    return [pickle.dumps((encoded, same), protocol) for protocol in (0, 2, 4)] + [
        pickle.dumps((arrays, same), protocol) for protocol in (2, 4, 5)] + [pickle.dumps((encoded, np.array(same)), 4)]


def everything(data: bytes) -> list[bytes]:
    """All texts and bytes in a pickle, by Python's disassembler; unpickling a corrupt one can end the process."""
    values = [value for _, value, _ in pickletools.genops(data)]
    return [value.encode("latin-1", "ignore") if isinstance(value, str) else bytes(value) for value in values
            if isinstance(value, (str, bytes, bytearray))]


def verification(data: bytes, folder: Path) -> bool:
    (folder / "a.bin").write_bytes(data)
    try:
        found, same = load_bin(folder / "a.bin", 4)
    except UserError:
        return False
    known = set()
    for item in everything(data):
        image = cv2.imdecode(np.frombuffer(item, np.uint8), cv2.IMREAD_COLOR_RGB) if len(item) > 50 else None
        if image is not None:
            known.add((image if image.shape == (4, 4, 3) else cv2.resize(image, (4, 4), interpolation=cv2.INTER_AREA)).tobytes())
    assert len(found) == 2 * len(same) and {image.tobytes() for image in found.numpy()} <= known
    return True


# Arrays

def npy_seeds(_folder: Path) -> list[bytes]:
    out = []
    for array in (np.arange(6, dtype=np.float32).reshape(3, 2), np.arange(3), np.asfortranarray(np.ones((2, 2), np.float64)),
                  np.array([True, False])):
        file = io.BytesIO()
        np.save(file, array)
        out.append(file.getvalue())
    return out


def npy(data: bytes, folder: Path) -> bool:
    (folder / "a.npy").write_bytes(data)
    try:
        found = open_npy(folder / "a.npy")
    except ValueError:
        return False
    start = 10 + int.from_bytes(data[8:10], "little") if data[6] == 1 else 12 + int.from_bytes(data[8:12], "little")
    header = data[:start].decode("latin-1")
    shape = tuple(int(n) for n in re.findall(r"\d+", re.search(r"['\"]shape['\"]\s*:\s*\(([^)]*)\)", header)[1]))
    assert found.shape == shape
    assert found.tobytes(order="A") == data[start:]
    return True


def npz_seeds(_folder: Path) -> list[bytes]:
    out = []
    for save in (np.savez, np.savez_compressed):
        file = io.BytesIO()
        save(file, report=np.array('{"a": 1}'), embs=np.arange(6, dtype=np.float32).reshape(3, 2))
        out.append(file.getvalue())
    return out


def npz(data: bytes, folder: Path) -> bool:
    (folder / "a.npz").write_bytes(data)
    try:
        found = read_npz(folder / "a.npz", ("report", "embs"))
    except ValueError:
        return False
    with zipfile.ZipFile(io.BytesIO(data)) as file:
        for name, array in found.items():
            member = name + ".npy" if name + ".npy" in file.namelist() else name
            assert array.tobytes(order="A") == file.read(member)[-array.nbytes or len(file.read(member)):]
    return True


def pt_seeds(_folder: Path) -> list[bytes]:
    state, out = {"a.weight": torch.arange(12.0).reshape(4, 3), "b": torch.arange(5)}, []
    for zipped in (True, False):
        file = io.BytesIO()
        torch.save(state, file, _use_new_zipfile_serialization=zipped)
        out.append(file.getvalue())
    return out


def pt(data: bytes, folder: Path) -> bool:
    """Models and classifier shards; the numbers in a zip are those that were written."""
    (folder / "model.pt").write_bytes(data)
    try:
        found = load_state(folder / "model.pt")
    except UserError:
        return False
    assert sum(value.nbytes for value in found.values()) <= 2 * len(data)
    if zipfile.is_zipfile(io.BytesIO(data)) and "a.weight" in found:
        assert found["a.weight"].tolist() == torch.arange(12.0).reshape(4, 3).tolist()
    return True


# IJB: the first byte chooses the meta file that the rest replaces in a small valid folder.

def meta_texts() -> list[str]:
    owners = [0, 0, 1, 1, 2, 2]         # of the templates 1 to 6, which have two images each
    points = "38.3 51.7 73.5 51.5 56.0 71.7 41.5 92.4 70.7 92.2 0.9"
    rows = [(f"{k}.jpg", (k + 1) // 2) for k in range(1, 13)]
    return ["".join(f"{name} {template} {template * 7}\n" for name, template in rows),
            "".join(f"{name} {points}\n" for name, _ in rows),
            "".join(f"{a + 1} {b + 1} {int(owners[a] == owners[b])}\n" for a in range(6) for b in range(a)),
            "T,S\n1,0\n", "T,S\n3,1\n5,2,x.jpg\n", "T,S\n2,0\n4,1\n4,1\n6,2\n"]


def meta_seeds(_folder: Path) -> list[bytes]:
    return [bytes([k]) + text.encode() for k, text in enumerate(meta_texts())]


def meta(data: bytes, folder: Path) -> bool:
    texts = [text.encode() for text in meta_texts()]
    texts[data[0] % 6 if data else 0] = data[1:]
    place = folder / "IJBC/meta"
    place.mkdir(parents=True, exist_ok=True)
    (folder / "IJBC/loose_crop").mkdir(exist_ok=True)
    for name, text in zip(META, texts, strict=True):
        (place / f"ijbc_{name}").write_bytes(text)
    try:
        images = read_images(folder, "IJBC")
        pairs, search = read_pairs(folder, "IJBC", images), read_search(folder, "IJBC", images)
    except UserError:
        return False
    belongs, points, listed, *sides = ([line.split() if k < 3 else line.split(",") for line in
                                        list(io.StringIO(text.decode(), newline=None))[k > 2:] if line.strip()]
                                       for k, text in enumerate(texts))
    ids = images.template_ids
    assert images.names.tolist() == [row[0] for row in belongs] == [row[0] for row in points]
    assert all(".." not in name.split("/") and not name.startswith("/") for name in images.names)
    assert ids[images.templates].tolist() == [int(row[1]) for row in belongs]
    assert images.media.tolist() == [int(row[2]) for row in belongs]
    expected = np.array([[float(x) for x in row[1:12]] for row in points], np.float64).astype(np.float32)
    assert np.array_equal(images.landmarks.reshape(-1, 10), expected[:, :10]) and np.array_equal(images.scores, expected[:, 10])
    assert np.stack([ids[pairs.enrol], ids[pairs.verify], pairs.same], 1).tolist() == [
        [int(row[0]), int(row[1]), int(row[2])] for row in listed]
    for people, rows in zip((*search.galleries.values(), search.probes), sides, strict=True):
        assert dict(zip(ids[people.templates].tolist(), people.subjects.tolist(), strict=True)) == {
            int(row[0].strip()): int(row[1].strip()) for row in rows}
    return True


TARGETS = {"records": (records, record_seeds), "images": (images, image_seeds), "bin": (verification, bin_seeds),
           "npy": (npy, npy_seeds), "npz": (npz, npz_seeds), "pt": (pt, pt_seeds), "meta": (meta, meta_seeds)}
