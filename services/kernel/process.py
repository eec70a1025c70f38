"""A process of one role, without nameko and eventlet: start, readiness, SIGTERM drains, exit 0."""

import os
import signal
import socket
import time
from typing import Protocol

from pymongo.database import Database
from pymongo.errors import PyMongoError

from services.kernel import logging, telemetry
from services.kernel.mongo import Document
from services.kernel.settings import Settings


def holder() -> str:
    """A name for leases that tells operators where the holder runs."""
    return f"{socket.gethostname()}:{os.getpid()}:{os.urandom(3).hex()}"


def await_database(database: Database[Document], attempts_seconds: float = 1.0) -> None:
    """Returns when the database answers; says so while it does not.

    SIGTERM and SIGINT end the process with 0 from here on: nothing is in hand yet. What runs next takes them over.
    """
    signal.signal(signal.SIGTERM, _leave)
    signal.signal(signal.SIGINT, _leave)
    while True:
        try:
            database.client.admin.command("ping")
        except PyMongoError:
            logging.get().warning("waiting_for_database")
            time.sleep(attempts_seconds)
        else:
            return


def _leave(*_args: object) -> None:
    raise SystemExit(0)


class Runnable(Protocol):
    """A loop that ends when told to."""

    def run(self) -> None:
        """Works until stopped."""

    def stop(self) -> None:
        """Ends :meth:`run` after the work in hand."""


def run_worker(worker: Runnable, settings: Settings, readiness: telemetry.Readiness) -> None:
    """Runs a plain process (relay, aggregator) until SIGTERM or SIGINT."""

    def on_signal(*_args: object) -> None:
        readiness.draining = True
        worker.stop()

    signal.signal(signal.SIGTERM, on_signal)
    signal.signal(signal.SIGINT, on_signal)
    server = telemetry.serve_ops(settings.ops_host, settings.ops_port, readiness)
    logging.get().info("started", ops_port=settings.ops_port)
    worker.run()
    server.shutdown()
    logging.get().info("stopped")
