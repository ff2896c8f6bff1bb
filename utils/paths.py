"""Where the repository is, and how names of files are looked up."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def locate(name: str | Path, folder: str | Path) -> Path:
    """``name`` if it is absolute, else inside ``folder``; or from the current directory if it is only there.

    It is there if it exists as a file or folder, or is the prefix of record files.
    """
    inside = Path(folder) / name                # ``name`` itself if it is absolute
    return next((path for path in (inside, Path(name)) if path.exists() or path.with_name(path.name + ".rec").exists()), inside)
