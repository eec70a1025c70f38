"""Structured logs: a constant message plus fields, one JSON object a line on standard output. Never payloads.

An exception is logged as its type and the places it came through, never its text: a driver's message quotes the
document it could not write.
"""

import logging
import sys
import threading
import traceback
from collections.abc import MutableMapping
from types import TracebackType
from typing import Any, TextIO

import structlog

Log = structlog.typing.FilteringBoundLogger
_FOREIGN = {"kombu", "amqp", "pika", "pymongo", "nameko", "eventlet", "werkzeug", "mongoengine", "limits"}


def configure(service: str, level: str = "INFO", stream: TextIO | None = None) -> None:
    """Sends our own logs, those of the libraries and what ends a thread or the process to ``stream`` as JSON lines.

    ``stream`` is standard output unless told.
    """
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _add(service),
        _exception_without_text,
    ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(stream or sys.stdout)
    handler.addFilter(_without_arguments)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.add_logger_name, *shared],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.JSONRenderer(ensure_ascii=False),
            ],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    for name in _FOREIGN:
        logging.getLogger(name).setLevel(max(logging.WARNING, root.level))
    sys.excepthook = _process_died
    threading.excepthook = _thread_died


def get() -> Log:
    """A logger; configure first."""
    log: Log = structlog.get_logger()
    return log


def _add(service: str) -> Any:
    def processor(_logger: object, _method: str, fields: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        fields.setdefault("service", service)
        return fields

    return processor


def _without_arguments(record: logging.LogRecord) -> bool:
    """A library's message keeps its template only: its arguments may be payload."""
    if not isinstance(record.msg, dict):  # a dict is our own line
        record.msg, record.args = str(record.msg)[:200], None
    return True


def _process_died(kind: type[BaseException], error: BaseException, at: TracebackType | None) -> None:
    """Python's own hook would print the exception's text."""
    if issubclass(kind, Exception):
        get().critical("process_died", exc_info=error.with_traceback(at))


def _thread_died(told: threading.ExceptHookArgs) -> None:
    if told.exc_value is not None and not isinstance(told.exc_value, SystemExit):
        get().critical("thread_died", thread=told.thread.name if told.thread else "", exc_info=told.exc_value)


def _exception_without_text(
    _logger: object, _method: str, fields: MutableMapping[str, Any]
) -> MutableMapping[str, Any]:
    info = fields.pop("exc_info", None)
    if info is True:
        info = sys.exc_info()
    error = info if isinstance(info, BaseException) else info[1] if info else None
    if error is not None:
        fields["error"] = f"{type(error).__module__}.{type(error).__qualname__}"
        fields["code"] = getattr(error, "code", None)
        frames = traceback.extract_tb(error.__traceback__)[-8:]
        fields["at"] = [f"{_place(frame.filename)}:{frame.lineno} {frame.name}" for frame in frames]
    return fields


def _place(path: str) -> str:
    """The file and its folder: every service has a handlers.py."""
    return "/".join(path.rsplit("/", 2)[-2:])
