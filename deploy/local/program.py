"""One process of the local system, as data."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum


class Stage(IntEnum):
    """Started in this order, each stage ready before the next; stopped in the reverse order, so brokers go last."""

    NAMES = 10
    """epmd, which the broker registers with."""
    STORES = 20
    """RabbitMQ and MongoDB."""
    PROCESSES = 30
    """Services, relays, the aggregator."""
    EDGE = 40
    """Caddy: the first to refuse, the last to accept."""


@dataclass(frozen=True, slots=True)
class Program:
    """What supervisord runs."""

    name: str
    stage: Stage
    command: tuple[str, ...]
    ports: tuple[str, ...] = ()
    """Keys of the table in layout.py."""
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    stop_seconds: int = 30
    """Between SIGTERM and SIGKILL."""
