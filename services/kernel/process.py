"""A process of one role: start, readiness, SIGTERM drains, exit 0.

The entry point of a nameko service monkey-patches before it imports this.
"""

import os
import signal
import socket
import time
from collections.abc import Callable
from typing import Any, Protocol

from pymongo.database import Database
from pymongo.errors import PyMongoError

from services.kernel import logging, telemetry
from services.kernel.mongo import Document
from services.kernel.settings import Settings


def holder() -> str:
    """A name for leases that tells operators where the holder runs."""
    return f"{socket.gethostname()}:{os.getpid()}:{os.urandom(3).hex()}"


def await_database(database: Database[Document], attempts_seconds: float = 1.0) -> None:
    """Returns when the database answers; says so while it does not."""
    while True:
        try:
            database.client.admin.command("ping")
        except PyMongoError:
            logging.get().warning("waiting_for_database")
            time.sleep(attempts_seconds)
        else:
            return


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


def run_service(service: type, app: Any, *, workers: int = 100, after_start: Callable[[], None] | None = None) -> None:
    """Runs one nameko service until SIGTERM or SIGINT, then drains: no request cut, no finished work repeated."""
    import eventlet
    from nameko.containers import ServiceContainer

    settings: Settings = app.settings
    container = ServiceContainer(service, {"app": app, "max_workers": workers, "AMQP_URI": settings.rabbitmq_url})
    asked = False

    def on_signal(*_args: object) -> None:
        nonlocal asked
        asked = True

    signal.signal(signal.SIGTERM, on_signal)
    signal.signal(signal.SIGINT, on_signal)
    app.readiness.add("started", lambda: container.started)
    telemetry.serve_ops(settings.ops_host, settings.ops_port, app.readiness)
    container.start()
    if after_start:
        after_start()
    logging.get().info("started", http_port=settings.http_port, ops_port=settings.ops_port)
    died = eventlet.spawn(container.wait)
    died.link(lambda _thread: on_signal())
    while not asked:
        eventlet.sleep(0.1)  # a signal does not wake eventlet's hub by itself
    container.stop()
    died.wait()  # raises what killed the container, if anything did
    logging.get().info("stopped")
