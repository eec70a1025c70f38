"""Fixtures: ``parts`` (one broker and database a session), ``world`` (a fresh vhost and databases a test)."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.parts import Broker, Parts, World, started


@pytest.fixture(scope="session")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Parts]:
    """A private RabbitMQ and mongod for the session."""
    with started(tmp_path_factory.mktemp("parts")) as running:
        yield running


@pytest.fixture
def world(parts: Parts, tmp_path: Path) -> Iterator[World]:
    """A fresh vhost and databases for one test."""
    made = World(parts, tmp_path)
    yield made
    made.close()


@pytest.fixture(scope="module")
def shared_world(parts: Parts, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """One world for all tests of a module."""
    made = World(parts, tmp_path_factory.mktemp("world"))
    yield made
    made.close()


@pytest.fixture
def rabbitmq(world: World) -> Broker:
    """The vhost of this test's world."""
    return world.broker


@pytest.fixture
def mongodb_url(parts: Parts) -> str:
    """The session's mongod."""
    return parts.mongodb_url
