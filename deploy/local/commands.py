"""``estation up``, ``down``, ``status`` and ``doctor``: what the launcher says to people."""

import os
import signal
import sys
import time

import click

from deploy.local import doctor as checks
from deploy.local import layout, lifecycle, system
from deploy.local import status as truth
from deploy.local.layout import Layout
from deploy.local.progress import say
from deploy.local.supervision import Supervisor


@click.command()
@click.option(
    "--attach/--detach", default=None, help="Stay in the foreground until Ctrl-C. Default: on a terminal, yes."
)
@click.option("--seed/--no-seed", default=True, help="Load the demo data (only once; a second time changes nothing).")
def up(*, attach: bool | None, seed: bool) -> None:
    """Start the whole system on this machine."""
    place = layout.read()
    started = time.monotonic()
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, signal.default_int_handler)
    try:
        lifecycle.up(place, os.environ, seed=seed)
    except KeyboardInterrupt:
        sys.exit(130)
    try:
        say(f"Ready after {time.monotonic() - started:.1f} s.")
        _where_to_look(place)
        if attach if attach is not None else sys.stdout.isatty():
            say("Ctrl-C stops everything.")
            _attend(place)
        else:
            say("It runs in the background; `estation down` (or `make down`) stops it.")
    except KeyboardInterrupt:
        lifecycle.down(place)
        say("E-Station is down.")


@click.command()
def down() -> None:
    """Stop everything, brokers last. Data stays."""
    say("E-Station is down." if lifecycle.down(layout.read()) else "E-Station was not up.")


@click.command()
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def status(*, as_json: bool) -> None:
    """Tell the truth about every process; exit code 0 only if all is well."""
    found = truth.read(*system.as_running())
    click.echo(truth.as_json(found) if as_json else truth.as_text(found))
    sys.exit(0 if found.ok else 1)


@click.command()
def doctor() -> None:
    """Check what the system needs of this machine, and say how to mend it."""
    bad = False
    for finding in checks.examine(*system.as_running()):
        click.echo(str(finding))
        bad = bad or finding.bad
    sys.exit(1 if bad else 0)


COMMANDS = (up, down, status, doctor)


def _where_to_look(place: Layout) -> None:
    say(f"  pages, API, /docs    {system.edge_url(place)}/")
    say(f"  logs                 {place.log}")
    say(f"  passwords, keys      {place.secrets}")
    say("  how it is            estation status")


def _attend(place: Layout) -> None:
    supervisor = Supervisor(place)
    while supervisor.pid() is not None:
        time.sleep(1)
    say("E-Station was stopped from elsewhere, or has lost its supervisor: `estation status` tells.")
