"""Checks what the system needs of a machine, and says how to mend what is missing. Changes nothing."""

import datetime as dt
import os
import shutil
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from pymongo.errors import PyMongoError

from deploy.local import debian, lifecycle, mongodb, rabbitmq, supervision, system
from deploy.local.errors import LauncherError
from deploy.local.layout import Layout
from deploy.local.supervision import Supervisor
from services.kernel import settings

PYTHON = (3, 11), (3, 14)
CLOCK_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Finding:
    """One check: ``bad`` stops the system, a finding that is neither bad nor fine only limits what can be done."""

    name: str
    text: str
    mend: str = ""
    bad: bool = False

    def __str__(self) -> str:
        mark = "bad " if self.bad else ("note" if self.mend else "fine")
        return f"{mark}  {self.name:<12}{self.text}{': ' + self.mend if self.mend else ''}"


def examine(place: Layout, environ: Mapping[str, str] = os.environ) -> Iterator[Finding]:
    """Every check, in the order in which one would mend."""
    yield _python()
    yield from _tools()
    yield _space(place)
    yield _settings(environ)
    yield _rabbitmq(place, environ)
    yield _mongod(place, environ)
    up = Supervisor(place).pid() is not None
    left = [] if up else supervision.orphans(place)
    if up:
        yield _clock(place, environ)
    elif left:
        yield Finding("processes", f"{len(left)} without a supervisor", "`estation up` or `down` mends that", bad=True)
    else:
        yield from _ports(place, environ)
    yield _chromium()


def _python() -> Finding:
    version = ".".join(map(str, sys.version_info[:3]))
    if PYTHON[0] <= sys.version_info[:2] < PYTHON[1]:
        return Finding("python", version)
    return Finding("python", version, "3.11, 3.12 or 3.13 is needed: PYTHON=python3.11 make up", bad=True)


def _tools() -> Iterator[Finding]:
    for tool in ("git", "make"):
        found = shutil.which(tool)
        yield Finding(tool, found) if found else Finding(tool, "not found", f"sudo apt-get install {tool}")
    caddy = Path(sys.executable).parent / "caddy"
    if caddy.exists():
        yield Finding("caddy", "from the requirements")
    else:
        yield Finding("caddy", "not found", "`make up` installs the requirements", bad=True)


def _space(place: Layout) -> Finding:
    try:
        place.prepare()
        lifecycle.check_space(place)
    except LauncherError as error:
        return Finding("disk", str(place.var), error.message, bad=True)
    return Finding("disk", f"{shutil.disk_usage(place.var).free >> 30} GB free at {place.var}")


def _settings(environ: Mapping[str, str]) -> Finding:
    try:
        settings.read(environ)
    except SystemExit as error:
        return Finding("settings", "wrong", str(error), bad=True)
    return Finding("settings", f"mode {environ.get('ESTATION_MODE', settings.LOCAL)}")


def _rabbitmq(place: Layout, environ: Mapping[str, str]) -> Finding:
    try:
        broker, found = rabbitmq.given(environ), rabbitmq.find(place)
    except LauncherError as error:
        return Finding("rabbitmq", "half named", error.message, bad=True)
    if broker:
        problem = broker.problem()
        return Finding("rabbitmq", f"{broker.host}:{broker.port}", problem, bad=bool(problem))
    if found:
        version = ".".join(map(str, found.version))
        old = bool(found.version) and found.version < rabbitmq.OLDEST
        return Finding("rabbitmq", f"{version} in {found.scripts}", rabbitmq.WAYS_OUT if old else "", bad=old)
    if debian.available():
        return Finding("rabbitmq", "not here yet", "`estation up` gets it from the distribution's packages")
    return Finding("rabbitmq", "not found", rabbitmq.WAYS_OUT, bad=True)


def _mongod(place: Layout, environ: Mapping[str, str]) -> Finding:
    if url := mongodb.given(environ):
        problem = mongodb.problem(url)
        return Finding("mongod", "given by the environment", problem, bad=bool(problem))
    try:
        missing = mongodb.missing_libraries(mongodb.binary(), debian.libraries(place.unpacked(mongodb.UNPACKED)))
    except LauncherError as error:
        return Finding("mongod", "cannot run here", error.message, bad=True)
    if missing:
        packages = " ".join(sorted({mongodb.DEBIAN_PACKAGES.get(name, name) for name in missing}))
        if debian.available():
            return Finding("mongod", f"lacks {packages}", "`estation up` gets it from the distribution's packages")
        return Finding("mongod", f"lacks {packages}", mongodb.WAY_OUT, bad=True)
    return Finding("mongod", "6.0 from the requirements")


def _clock(place: Layout, environ: Mapping[str, str]) -> Finding:
    try:
        theirs = mongodb.hello(system.addresses(place, environ)[1])["localTime"].replace(tzinfo=dt.UTC)
    except PyMongoError as error:
        return Finding("clock", "not compared", str(error)[:120])
    apart = abs((dt.datetime.now(tz=dt.UTC) - theirs).total_seconds())
    mend = "set both by NTP, check-ins are judged by the time" if apart > CLOCK_SECONDS else ""
    return Finding("clock", f"{apart:.1f} s from the database's", mend, bad=bool(mend))


def _ports(place: Layout, environ: Mapping[str, str]) -> Iterator[Finding]:
    given = [
        *(("epmd", "rabbitmq") if rabbitmq.given(environ) else ()),
        *(("mongod",) if mongodb.given(environ) else ()),
    ]
    names = [name for name in place.ports if not name.startswith(tuple(given))]
    taken = 0
    for name in names:
        try:
            lifecycle.check_port(place, name)
        except LauncherError as error:
            taken += 1
            yield Finding("port", name, error.message, bad=True)
    if not taken:
        yield Finding("ports", f"{len(names)} free")


def _chromium() -> Finding:
    cache = Path(os.environ.get("PLAYWRIGHT_BROWSERS_PATH") or Path.home() / ".cache/ms-playwright")
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    found = found or next(map(str, cache.glob("chromium*")), None)
    if found:
        return Finding("chromium", found)
    return Finding("chromium", "not found", "only the tests of pages need it: sudo apt-get install chromium")
