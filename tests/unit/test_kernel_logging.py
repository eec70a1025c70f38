"""Logs: JSON lines of constant messages and fields; what a payload or an exception says stays out of them."""

import io
import json
import logging as stdlib
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import structlog
from pymongo.errors import BulkWriteError, DuplicateKeyError

from services.kernel import logging
from services.kernel.errors import Conflict
from tests.builders import ID_NUMBER


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    """Where the log goes; the root logger is given back as it was."""
    root = stdlib.getLogger()
    before, level, hooks = root.handlers[:], root.level, (sys.excepthook,)
    written = io.StringIO()
    logging.configure("probe", "DEBUG", written)
    yield written
    root.handlers[:] = before
    root.setLevel(level)
    (sys.excepthook,) = hooks
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    """What was logged; every line must be an object."""
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_line_is_an_object_with_message_fields_level_time_and_service(stream: io.StringIO) -> None:
    logging.get().info("event_applied", event_id="e1", district="泰山区")
    (line,) = lines(stream)
    assert line.pop("timestamp").endswith("Z")
    assert line == {
        "event": "event_applied",
        "event_id": "e1",
        "district": "泰山区",
        "level": "info",
        "service": "probe",
    }
    assert "泰山区" in stream.getvalue(), "Chinese is readable as it stands"


def test_a_line_break_in_a_field_does_not_make_a_second_line(stream: io.StringIO) -> None:
    logging.get().info("odd", field='a\n{"event": "forged"}')
    assert len(lines(stream)) == 1


def test_what_is_bound_to_the_context_is_in_every_line(stream: io.StringIO) -> None:
    structlog.contextvars.bind_contextvars(trace_id="t1")
    logging.get().info("one")
    stdlib.getLogger("nameko.containers").warning("two")
    assert [line["trace_id"] for line in lines(stream)] == ["t1", "t1"]


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError(f"no such person: {ID_NUMBER}"),
        DuplicateKeyError(
            f'E11000 duplicate key error dup key: {{ _id: "{ID_NUMBER}" }}', 11000, {"keyValue": {"_id": ID_NUMBER}}
        ),
        BulkWriteError({"writeErrors": [{"op": {"_id": ID_NUMBER}}]}),
        KeyError(ID_NUMBER),
    ],
)
@pytest.mark.parametrize("foreign", [False, True])
def test_an_exception_is_its_type_and_place_never_its_text(
    stream: io.StringIO, error: Exception, *, foreign: bool
) -> None:
    try:
        raise error  # noqa: TRY301 (the case itself)
    except Exception:
        if foreign:
            stdlib.getLogger("nameko.containers").exception("error handling worker %s: %s", object(), error)
        else:
            logging.get().error("request_failed", exc_info=True)
    (line,) = lines(stream)
    assert ID_NUMBER not in stream.getvalue()
    assert line["error"] == f"{type(error).__module__}.{type(error).__qualname__}"
    assert line["at"][-1].startswith("unit/test_kernel_logging.py:")


def test_an_exception_given_as_such_or_as_a_triple_is_told_too(stream: io.StringIO) -> None:
    error = Conflict("idempotency_key_reused")
    logging.get().error("one", exc_info=error)
    logging.get().error("two", exc_info=(type(error), error, None))
    logging.get().error("three", exc_info=None)
    one, two, three = lines(stream)
    assert one["code"] == two["code"] == "idempotency_key_reused"
    assert one["error"] == two["error"] == "services.kernel.errors.Conflict"
    assert "error" not in three


@pytest.mark.parametrize("logger", ["kombu.mixins", "amqp", "pymongo.command", "pika.channel", "werkzeug", "asyncio"])
def test_a_library_keeps_its_template_only(stream: io.StringIO, logger: str) -> None:
    stdlib.getLogger(logger).error("cannot decode %r", f'{{"id": "{ID_NUMBER}"}}')
    stdlib.getLogger(logger).error("cannot decode %(body)s", {"body": ID_NUMBER})
    assert ID_NUMBER not in stream.getvalue()
    assert [line["event"] for line in lines(stream)] == ["cannot decode %r", "cannot decode %(body)s"]
    assert lines(stream)[0]["logger"] == logger


def test_a_library_that_cannot_format_its_message_takes_nothing_along(stream: io.StringIO) -> None:
    stdlib.getLogger("kombu").error("%s and %s", ID_NUMBER)  # noqa: PLE1206 (the case itself)
    assert [line["event"] for line in lines(stream)] == ["%s and %s"]
    assert ID_NUMBER not in stream.getvalue()


def test_libraries_chatter_stays_out_at_every_level(stream: io.StringIO) -> None:
    for name in ("nameko", "pymongo.command", "kombu", "amqp"):
        stdlib.getLogger(name).info("chatter")
        stdlib.getLogger(name).debug("chatter")
    assert lines(stream) == []


def test_the_level_filters_our_own(stream: io.StringIO) -> None:
    del stream
    quiet = io.StringIO()
    structlog.reset_defaults()
    logging.configure("probe", "WARNING", quiet)
    logging.get().info("unheard")
    logging.get().warning("heard")
    assert [line["event"] for line in lines(quiet)] == ["heard"]


@pytest.mark.parametrize("where", ["main", "thread"])
def test_what_kills_a_process_or_thread_is_logged_without_its_text(where: str) -> None:
    """Python itself would print the exception's text to the same log file."""
    code = (
        "import threading\n"
        "from services.kernel import logging\n"
        "logging.configure('probe')\n"
        f"def work(): raise ValueError('{ID_NUMBER}')\n"
        + ("work()\n" if where == "main" else "t = threading.Thread(target=work); t.start(); t.join()\n")
    )
    ended = subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONPATH": ":".join(sys.path)},
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert ended.returncode == (1 if where == "main" else 0)
    assert ID_NUMBER not in ended.stdout + ended.stderr
    (line,) = [json.loads(text) for text in ended.stdout.splitlines()]
    assert (line["level"], line["error"]) == ("critical", "builtins.ValueError")
    assert line["at"][-1].endswith(" work")


def test_ctrl_c_is_no_fault() -> None:
    ended = subprocess.run(
        [sys.executable, "-c", "from services.kernel import logging; logging.configure('p'); raise KeyboardInterrupt"],
        env={"PYTHONPATH": ":".join(sys.path)},
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert ended.returncode != 0
    assert ended.stdout == ""
