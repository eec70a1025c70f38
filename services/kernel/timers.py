"""Work that is due every so often, in one process at a time (nameko's own timer fires in every replica)."""

import time
from collections.abc import Callable
from typing import Any, TypeVar

import eventlet
from eventlet.event import Event as Settled
from nameko.extensions import Entrypoint
from pymongo.errors import PyMongoError

from services.kernel import logging
from services.kernel.mongo import Lease
from services.kernel.process import holder

F = TypeVar("F", bound=Callable[..., Any])


class Timer(Entrypoint):
    """Calls a method every ``seconds`` while this process holds the timer's lease."""

    def __init__(self, seconds: float, **kwargs: Any) -> None:
        self.seconds = seconds
        self._stopping = False
        self._thread: Any = None
        super().__init__(**kwargs)

    def start(self) -> None:
        app = self.container.config["app"]
        self._lease = Lease(
            app.database["leases"], f"timer {self.method_name}", holder(), ttl=max(5.0, self.seconds * 3.5)
        )
        self._thread = self.container.spawn_managed_thread(self._run)  # what breaks it ends the process

    def stop(self) -> None:
        self._stopping = True
        if self._thread is not None:
            self._thread.wait()

    def _run(self) -> None:
        due = time.monotonic()
        while not self._stopping:
            if time.monotonic() < due:
                eventlet.sleep(min(0.1, self.seconds))
                continue
            due = time.monotonic() + self.seconds
            try:
                if self._lease.hold():
                    self._call()
            except PyMongoError:
                logging.get().warning("timer_without_database", timer=self.method_name, exc_info=True)
        try:
            self._lease.release()
        except PyMongoError:
            logging.get().warning("lease_not_released", timer=self.method_name)

    def _call(self) -> None:
        settled = Settled()

        def done(_worker: object, result: object, exc_info: Any) -> tuple[object, Any]:
            settled.send(None)
            return result, exc_info

        self.container.spawn_worker(self, (), {}, handle_result=done)
        settled.wait()


def every(seconds: float) -> Callable[[F], F]:
    """Declares a method that is due every ``seconds``; it must be harmless when it runs twice."""
    return Timer.decorator(seconds)
