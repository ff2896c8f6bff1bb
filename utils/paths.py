"""Where the repository is, and how names of files are looked up."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def locate(name: str | Path, folder: str | Path) -> Path:
    """``name`` as given if it exists (a file, or the prefix of record files), else inside ``folder``."""
    given = Path(name)
    if given.is_absolute() or given.exists() or given.with_name(given.name + ".rec").exists():
        return given
    return Path(folder) / name
