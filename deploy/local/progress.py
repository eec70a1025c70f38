"""One line a step, with its seconds, on whatever the command writes to."""

import contextlib
import time
from collections.abc import Iterator

import click

WIDTH = 34


def say(text: str) -> None:
    """A line to people; nobody reading it any more (a closed terminal) is no reason to stop working."""
    with contextlib.suppress(OSError):
        click.echo(text)


@contextlib.contextmanager
def step(name: str) -> Iterator[None]:
    """Names a step while it is done, and its seconds after."""
    start = time.monotonic()
    with contextlib.suppress(OSError):
        click.echo(f"  {name:<{WIDTH}}", nl=False)
    try:
        yield
    except BaseException:
        say(" failed")
        raise
    say(f"{time.monotonic() - start:6.1f} s")
