"""The host's clock is set back a day under load: what is acknowledged is kept and counted once, and nothing stops."""

import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from deploy.local import debian
from deploy.local.errors import LauncherError
from deploy.local.program import Program, Stage
from tests.faults.conftest import Rigs, Scale
from tests.faults.rig import Rig
from tests.parts import PROJECT, until

UNPACKED = PROJECT / "var" / "faketime"
PATTERN = "usr/lib/*/faketime/libfaketimeMT.so.1"


@pytest.fixture
def faketime() -> Iterator[Path]:
    """libfaketime, unpacked under var/ as `make up` unpacks a broker; nothing is installed.

    By a copy whose path has no space: the loader takes one in ``LD_PRELOAD`` for the end of a name.
    """
    if not debian.available():
        pytest.skip("libfaketime comes from the packages of Debian or Ubuntu, and this is neither")
    if not any(UNPACKED.glob(PATTERN)):
        UNPACKED.parent.mkdir(exist_ok=True)
        try:
            debian.unpack(["libfaketime"], UNPACKED)
        except LauncherError as error:
            pytest.skip(f"libfaketime cannot be had: {error.message}")
    with tempfile.TemporaryDirectory(prefix="estation-") as folder:
        yield Path(shutil.copy(next(UNPACKED.glob(PATTERN)), folder))


@pytest.fixture
def clock_file(tmp_path: Path) -> Path:
    """What the system's processes believe: an offset to the real time."""
    path = tmp_path / "clock"
    path.write_text("+0")
    return path


@pytest.fixture
def faked_rig(faketime: Path, clock_file: Path, rigs: Rigs, scale: Scale, seed: int, tmp_path: Path) -> Iterator[Rig]:
    """A system whose stores and processes take the time of day from a file."""
    rigs.end()

    def fake(program: Program) -> Program:
        if program.stage not in (Stage.STORES, Stage.PROCESSES):
            return program
        environment = {
            **program.environment,
            "LD_PRELOAD": str(faketime),
            "FAKETIME_TIMESTAMP_FILE": str(clock_file),
            "FAKETIME_CACHE_DURATION": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }
        return replace(program, environment=environment)

    made = Rig(tmp_path, seed, scale.devices, wired=False, change=fake)
    try:
        made.start()
        yield made
    finally:
        made.end()


@pytest.mark.timeout(900)
def test_clock_set_back_a_day_breaks_nothing(faked_rig: Rig, clock_file: Path, scale: Scale) -> None:
    rig = faked_rig
    checkins = rig.database("stations")["checkins"]
    rig.start_fleet()
    rig.await_traffic(scale.posts // 2, 120)
    clock_file.write_text("-1d")
    rig.say("the clock is set back a day")
    yesterday = datetime.now(UTC) - timedelta(hours=23)
    until(lambda: checkins.count_documents({"received_at": {"$lt": yesterday}}) > 10, "the system believes it", 60)
    rig.await_traffic(scale.posts // 2, 120)
    rig.await_healed("relay-stations", rig.kill("relay-stations"))
    rig.await_healed("aggregator", rig.kill("aggregator"))
    rig.await_traffic(scale.posts // 2, 120)
    rig.settle()
    clock_file.write_text("+0")
    rig.say("and forward again")
    rig.start_fleet()
    rig.await_traffic(scale.posts // 2, 120)
    rig.settle()
