"""Folders of photographs, FOLDER/person/*.jpg: who is in them, which pictures can be used, and what is left out and why.

The whole tree is looked at before anything is written. What the content of a file is decides, not the ending of its name.
"""

import hashlib
import os
import re
import stat
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from records.pictures import HEAD, WEAK, has_ending, kind_of, pixels
from utils.errors import UserError

# What operating systems, disk stations and archive programs leave; names that begin with a point are hidden, too.
SYSTEM_FOLDERS = {"__macosx", "@eadir", "#recycle", "#snapshot", "$recycle.bin", "system volume information", "lost+found",
                  "__pycache__"}
SYSTEM_FILES = {"thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r"}
CONTROL = re.compile("[\0-\x1f\x7f-\x9f\u2028\u2029]")
ALBUM = "folder that holds folders of pictures"
LOOSE = "picture next to the people's folders"
NOBODY = "person without a usable picture"
CHUNK = 512                         # pictures that are read at a time
MAX_FILE = 1 << 28                  # bytes of a picture's file


@dataclass(frozen=True)
class LeftOut:
    """A file or folder that is not used.

    kind: the reason, in the same words for all of a kind.  bad: the user must decide what to do about it.
    """

    path: Path
    kind: str
    detail: str = ""
    bad: bool = False


@dataclass(frozen=True)
class Picture:
    """A picture that can be used; ``checksum``: of its file; ``pixels``: their checksum; ``found``: what their check gave."""

    path: Path
    checksum: bytes
    pixels: bytes
    found: Any


@dataclass
class Tree:
    """People in the order of their names, each with pictures in the order of their paths; and everything that is left out."""

    folder: Path
    people: dict[str, list[Picture]] = field(default_factory=dict)
    left_out: list[LeftOut] = field(default_factory=list)

    def leave_out(self, path: Path, kind: str, detail: str = "", bad: bool = False) -> None:
        self.left_out.append(LeftOut(path, kind, detail, bad))

    def __len__(self) -> int:
        return sum(map(len, self.people.values()))


class Rejected(Exception):
    """A picture that a check refuses: (kind, detail, bad) of its LeftOut."""


Check = Callable[[bytes, np.ndarray], Any]      # (bytes of the file, pixels BGR) -> Picture.found, or it raises Rejected


def read_tree(folder: Path, check: Check, albums: bool = False, threads: int | None = None) -> Tree:
    """Everything in ``folder``, looked at once: names, then the content of each picture, then equal pictures.

    albums: pictures in folders inside a person's folder are that person's, too.  threads: number of them that call
    ``check`` (None: one per core).  UserError if there is no such folder.
    """
    if not folder.is_dir():
        raise UserError(f"no folder {folder}; expected a folder with one folder of images for each person")
    tree = Tree(folder)
    files = walk(tree, albums)
    digests: dict[bytes, list[tuple[str, Path]]] = {}
    jobs = [(name, path) for name in files for path in files[name]]
    tree.people = {name: [] for name in files}
    with ThreadPoolExecutor(threads or len(os.sched_getaffinity(0))) as pool, \
            tqdm(total=len(jobs), desc="looking at", unit=" images", disable=None) as bar:
        for chunk in chunks(jobs):
            for (name, path), result in zip(chunk, pool.map(lambda job: look(job[1], check), chunk), strict=True):
                if isinstance(result, LeftOut):
                    tree.left_out.append(result)
                else:
                    tree.people[name].append(result)
                    digests.setdefault(result.pixels, []).append((name, path))
                bar.update()
    leave_out_copies(tree, digests)
    for name in [name for name, pictures in tree.people.items() if not pictures]:
        del tree.people[name]
        if all(item.path != folder / name for item in tree.left_out):
            tree.leave_out(folder / name, NOBODY, "has no image")
    return tree


def chunks(jobs: list) -> Iterator[list]:
    """The jobs, CHUNK at a time."""
    rest = iter(jobs)
    while chunk := list(islice(rest, CHUNK)):
        yield chunk


def walk(tree: Tree, albums: bool) -> dict[str, list[Path]]:
    """{person: files that may be pictures}, both sorted.  No picture is decoded."""
    files: dict[str, list[Path]] = {}
    seen: dict[tuple[int, int], Path] = {identity(tree.folder): tree.folder}
    for path, is_folder in entries(tree, tree.folder):
        if not is_folder:
            loose = has_ending(path) or kind_of(head_of(path)) is not None
            tree.leave_out(path, LOOSE if loose else "not a picture")
        elif has_ending(path):
            tree.leave_out(path, "folder named like a picture")
        elif bad := bad_name(path.name):
            tree.leave_out(path, bad, bad=True)
        elif (first := seen.setdefault(identity(path), path)) is not path:
            tree.leave_out(path, "link to a folder that is used already", shown(first), bad=first != tree.folder)
        else:
            files[path.name] = sorted(pictures_in(tree, path, albums))
    return files


def pictures_in(tree: Tree, person: Path, albums: bool) -> list[Path]:
    """Files of a person that may be pictures."""
    found: list[Path] = []
    nested: list[Path] = []
    pending, seen = [person], {identity(person), identity(tree.folder)}
    while pending:
        folder = pending.pop()
        for path, is_folder in entries(tree, folder):
            if is_folder:
                if has_ending(path):
                    tree.leave_out(path, "folder named like a picture")
                elif identity(path) in seen:
                    tree.leave_out(path, "link to a folder that is used already")
                else:
                    seen.add(identity(path))
                    pending.append(path)
            elif bad := bad_name(str(path.relative_to(person))):
                tree.leave_out(path, bad, bad=True)
            elif has_ending(path) or kind_of(head_of(path)) is not None:
                (found if albums or folder == person else nested).append(path)
            else:
                tree.leave_out(path, "not a picture", path.suffix.lower())
    inside = Counter(person / path.relative_to(person).parts[0] for path in nested)
    if inside and not found:
        tree.leave_out(person, ALBUM, f"no pictures of its own, {len(inside)} folders with {len(nested)} pictures", bad=True)
    else:
        for folder, number in sorted(inside.items()):
            tree.leave_out(folder, ALBUM, f"{number} pictures", bad=True)
    return found


def entries(tree: Tree, folder: Path) -> Iterator[tuple[Path, bool]]:
    """(path, is it a folder) of what is in ``folder``, sorted; hidden things, broken links and special files are left out."""
    try:
        paths = sorted(folder.iterdir())
    except OSError as error:
        tree.leave_out(folder, "cannot be read", error.strerror or str(error), bad=True)
        return
    for path in paths:
        try:
            mode = path.stat().st_mode
        except OSError as error:
            if path.name.startswith("."):
                tree.leave_out(path, "hidden or of the system")
            elif path.is_symlink():
                tree.leave_out(path, "link to nothing", f"to {shown(path.readlink())}: {error.strerror}", bad=True)
            else:
                tree.leave_out(path, "cannot be read", error.strerror or str(error), bad=True)
            continue
        is_folder = stat.S_ISDIR(mode)
        if path.name.startswith(".") or path.name.lower() in (SYSTEM_FOLDERS if is_folder else SYSTEM_FILES):
            tree.leave_out(path, "hidden or of the system", "folder" if is_folder else "")
        elif is_folder or stat.S_ISREG(mode):
            yield path, is_folder
        else:
            tree.leave_out(path, "neither a file nor a folder", bad=True)


def identity(path: Path) -> tuple[int, int]:
    """(device, number) of a folder: the same for all links to it."""
    status = path.stat()
    return status.st_dev, status.st_ino


def bad_name(name: str) -> str:
    """What is wrong with a name that the lists of text files cannot hold; "" if nothing."""
    try:
        os.fsencode(name).decode("utf-8")
    except UnicodeDecodeError:
        return "name that is not UTF-8"
    return "name with a tab, a line break or another control character" if CONTROL.search(name) else ""


def alike(names: Iterable[str]) -> list[list[str]]:
    """The names of people that differ only in upper and lower case, in spaces, or in how their accents are encoded, by group."""
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(spelling(name), []).append(name)
    return [group for group in groups.values() if len(group) > 1]


def spelling(name: str) -> str:
    """What two spellings of a name have in common."""
    return " ".join(unicodedata.normalize("NFC", name).casefold().split())


def shown(path: Path | str) -> str:
    """A name for the terminal and for lists: what is not UTF-8 or not printable is escaped."""
    text = os.fsencode(path).decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def head_of(path: Path) -> bytes:
    """The first bytes of a file; none if it cannot be read (which is reported when it is read)."""
    try:
        with open(path, "rb") as file:
            return file.read(HEAD)
    except OSError:
        return b"\xff\xd8\xff"      # looked at again with the pictures


def checksum(data: bytes | memoryview) -> bytes:
    """The first 16 bytes of sha256."""
    return hashlib.sha256(data).digest()[:16]


def look(path: Path, check: Check) -> Picture | LeftOut:
    """The picture with what ``check`` found, or why the file is left out."""
    try:
        if path.stat().st_size > MAX_FILE:
            return LeftOut(path, "larger than a picture", f"{path.stat().st_size:,} bytes", bad=True)
        data = path.read_bytes()
    except OSError as error:
        return LeftOut(path, "cannot be read", error.strerror or str(error), bad=True)
    try:
        image = pixels(data)
    except ValueError as error:
        if not has_ending(path) and kind_of(data[:HEAD]) in WEAK:
            return LeftOut(path, "not a picture", path.suffix.lower())
        return LeftOut(path, "is not an image that OpenCV can decode", str(error), bad=True)
    try:
        return Picture(path, checksum(data), checksum(np.ascontiguousarray(image).data), check(data, image))
    except Rejected as reason:
        return LeftOut(path, *reason.args)


def leave_out_copies(tree: Tree, digests: dict[bytes, list[tuple[str, Path]]]) -> None:
    """Leave out a second copy of a person's picture, and each picture that two people have: whose it is only the user knows."""
    copies = {}
    for first, *others in digests.values():
        owners = sorted({name for name, _ in (first, *others)})
        for name, path in ((first, *others) if len(owners) > 1 else others):
            copies[path] = name
            if len(owners) > 1:
                tree.leave_out(path, "the same picture in folders of different people", f"also of "
                               f"{', '.join(other for other in owners if other != name)}", bad=True)
            else:
                tree.leave_out(path, "copy of another picture of the person", first[1].name)
    if copies:
        for name in set(copies.values()):
            tree.people[name] = [picture for picture in tree.people[name] if picture.path not in copies]
