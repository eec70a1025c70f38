"""How large the fault tests are, and the system that they break."""

import os
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.faults.rig import Rig

SCALE = "ESTATION_FAULTS"
SEED = "ESTATION_FAULTS_SEED"


@dataclass(frozen=True, slots=True)
class Scale:
    """How much of everything: small inside ``make test``, full by ``make faults``."""

    full: bool
    kills: int
    """Of each process."""
    hangs: int
    """Of each pair of a store that hangs and a process that dies."""
    terms: int
    """SIGTERMs to each process."""
    devices: int
    alarm_seconds: float
    posts: int
    """While a lasting fault holds."""


SCALES = {
    "small": Scale(full=False, kills=1, hangs=1, terms=1, devices=20, alarm_seconds=3, posts=60),
    "hunt": Scale(full=False, kills=2, hangs=3, terms=1, devices=50, alarm_seconds=3, posts=60),
    "full": Scale(full=True, kills=10, hangs=3, terms=20, devices=50, alarm_seconds=60, posts=600),
}


@pytest.fixture(scope="session")
def scale() -> Scale:
    """Small, unless ESTATION_FAULTS says otherwise."""
    return SCALES[os.environ.get(SCALE) or "small"]


@pytest.fixture(scope="session")
def seed() -> int:
    """Of all dice; printed with what fails."""
    return int(os.environ.get(SEED) or random.SystemRandom().randrange(10**6))


class Rigs:
    """At most one system at a time: two would only slow each other down."""

    def __init__(self, folder: Callable[[], Path], scale: Scale, seed: int) -> None:
        self._folder, self._scale, self._seed = folder, scale, seed
        self._running: Rig | None = None

    def rig(self, *, wired: bool) -> Rig:
        """The running system if it is wired as asked, else a new one."""
        if self._running is None or self._running.wired != wired:
            self.end()
            self._running = Rig(self._folder(), self._seed, self._scale.devices, wired=wired)
            try:
                self._running.start()
            except BaseException:
                self.end()
                raise
        return self._running

    def end(self) -> None:
        """Stops what runs."""
        running, self._running = self._running, None
        if running is not None:
            running.end()


@pytest.fixture(scope="package")
def rigs(tmp_path_factory: pytest.TempPathFactory, scale: Scale, seed: int) -> Iterator[Rigs]:
    """Gives out systems."""
    made = Rigs(lambda: tmp_path_factory.mktemp("faults"), scale, seed)
    yield made
    made.end()


def _lent(rig: Rig, capsys: pytest.CaptureFixture[str], name: str) -> Iterator[Rig]:
    rig.say(f"--- {name}")
    try:
        yield rig
    finally:
        rig.wires.mend()
        rig.stop_fleet()
    with capsys.disabled():
        print(f"\n    {name}: {rig.summary()}; {rig.timeline[-1].split('  ')[-1]}")  # noqa: T201


@pytest.fixture
def rig(rigs: Rigs, capsys: pytest.CaptureFixture[str], request: pytest.FixtureRequest) -> Iterator[Rig]:
    """The system as it is; after the test no fault holds and nobody posts."""
    yield from _lent(rigs.rig(wired=False), capsys, request.node.name)


@pytest.fixture
def wired_rig(rigs: Rigs, capsys: pytest.CaptureFixture[str], request: pytest.FixtureRequest) -> Iterator[Rig]:
    """The same with a wire between every two parts."""
    yield from _lent(rigs.rig(wired=True), capsys, request.node.name)
