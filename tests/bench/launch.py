"""`make up` a second time, everything unpacked and the data there: a system of its own beside whatever runs."""

import os
import shutil
import subprocess
import time
from typing import Final

from deploy.local.layout import OFFSET
from tests.bench.rows import Goal, Row
from tests.bench.scene import Bench
from tests.parts import PROJECT

PORTS_UP: Final = 4_300
"""Added to every port: beside a system that runs, and below the ephemeral ports of most machines."""
READY_SECONDS: Final = 20


def second_up(bench: Bench) -> list[Row]:
    """Seconds from the command to ready, the first start not counted."""
    environ = {**os.environ, "ESTATION_VAR": str(bench.folder / "up"), OFFSET: str(PORTS_UP)}

    def make(target: str) -> float:
        begun = time.perf_counter()
        subprocess.run(["make", target], cwd=PROJECT, env=environ, check=True, capture_output=True, timeout=300)
        return time.perf_counter() - begun

    seconds = []
    try:
        make("up")
        for _ in range(min(3, bench.options.rounds)):
            make("down")
            seconds.append(make("up"))
    finally:
        make("down")
        shutil.rmtree(environ["ESTATION_VAR"])
    return [Row("`make up`, second time, to ready", "s", seconds, goal=Goal("<", READY_SECONDS))]
