"""A nameko service as a process: start, readiness, SIGTERM drains, exit 0.

The entry point monkey-patches before it imports this.
"""

import signal
from typing import Any

import eventlet
from eventlet import debug
from nameko.containers import ServiceContainer

from services.kernel import logging, telemetry
from services.kernel.settings import Settings


def run_service(service: type, app: Any, *, workers: int = 100) -> None:
    """Runs one nameko service until SIGTERM or SIGINT, then drains: no request cut, no finished work repeated.

    Raises:
        Exception: what kept the service from starting, or ended it.
    """
    settings: Settings = app.settings
    container = ServiceContainer(service, {"app": app, "max_workers": workers, "AMQP_URI": settings.rabbitmq_url})
    started = asked = False

    def on_signal(*_args: object) -> None:
        nonlocal asked
        asked = True

    signal.signal(signal.SIGTERM, on_signal)
    signal.signal(signal.SIGINT, on_signal)
    debug.hub_exceptions(False)  # eventlet prints them with their text; nameko's log line has all we may show
    app.readiness.add("started", lambda: started)
    telemetry.serve_ops(settings.ops_host, settings.ops_port, app.readiness)
    container.start()
    started = True
    logging.get().info("started", http_port=settings.http_port, ops_port=settings.ops_port)
    died = eventlet.spawn(container.wait)
    died.link(lambda _thread: on_signal())
    while not asked:
        eventlet.sleep(0.1)  # a signal does not wake eventlet's hub by itself
    app.readiness.draining = True
    container.stop()
    died.wait()  # raises what killed the container, if anything did
    logging.get().info("stopped")
