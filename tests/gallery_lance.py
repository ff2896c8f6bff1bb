"""A small gallery in LanceDB with its upgrade.json and new vectors, in a folder of a test."""

import numpy as np
from gallery_toys import NEW, People, fill, write_upgrade

from gallery.names import Names, load_upgrade, names_of
from gallery.reembed import Worker
from gallery.sources import GivenVectors
from gallery.store import open_store

NAMES = Names("gallery", "gallery__new")
COUNT = 60


def make(place, people=None, **changes) -> tuple[People, str]:
    """A gallery of COUNT people, its upgrade.json and new vectors in ``place``; (the people, the URI)."""
    people = people or People(COUNT)
    write_upgrade(place, people, **changes)
    fill("lancedb", str(place / "lance"), people.ids(), people.old)
    np.save(place / "new.npy", people.new)
    (place / "ids.txt").write_text("\n".join(people.ids()))
    return people, str(place / "lance")


def worker_of(place, source=None) -> Worker:
    store, upgrade = open_store(str(place / "lance")), load_upgrade(place / "upgrade.json")
    source = source or GivenVectors(place / "new.npy", place / "ids.txt")
    return Worker(store, upgrade, NEW, names_of(store, upgrade, NEW, None), source, 60.0)
