"""Who guards the guards: three classic bugs, planted one at a time in a copy, each of which the harness must find."""

import os
import re
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.faults.conftest import SCALE, SEED, Scale
from tests.mutants import copy_project, plant

FIND_SECONDS = 300


@dataclass(frozen=True, slots=True)
class Bug:
    """What is done wrong, as replacements in one file, and how the harness words what it sees of it."""

    name: str
    file: str
    changes: tuple[tuple[str, str], ...]
    seen: str


BUGS = (
    Bug(
        "ack before commit",
        "services/metrics/aggregator.py",
        (
            (
                "            self._start(batch, lambda: self._applier.settle(batch))\n",
                """\
            self._channel.basic_ack(batch.last_tag, multiple=True)
            self._start(batch, lambda: self._applier.settle(batch))
""",
            ),
            (
                "                self._channel.basic_ack(batch.last_tag, multiple=True)\n        if",
                "                pass\n        if",
            ),
        ),
        r"acknowledged, not logged",
    ),
    Bug(
        "mark before confirm",
        "services/kernel/relay.py",
        (
            (
                "        packed = list(pack(events))\n",
                """\
        packed = list(pack(events))
        mark_published(
            self._database[source.collection], {document["_id"]: document["seq"] for document in documents}
        )
""",
            ),
        ),
        r"acknowledged, not logged",
    ),
    Bug(
        "count before dedupe",
        "services/metrics/log.py",
        (
            (
                "            for fact in fresh:\n                sums.add",
                "            for fact in facts:\n                sums.add",
            ),
        ),
        r"log and roll-ups differ",
    ),
)


@pytest.mark.timeout(FIND_SECONDS + 120)
@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.name)
def test_a_planted_bug_is_found(
    bug: Bug, scale: Scale, seed: int, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    if not scale.full:
        pytest.skip("takes minutes each: `make faults` does it")
    request.getfixturevalue("rigs").end()  # two systems at once would share ports
    copy = copy_project(tmp_path / "project")
    for before, after in bug.changes:
        plant(copy / bug.file, before, after)
    started = time.monotonic()
    found = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-x",
            "-q",
            "--no-header",
            "-p",
            "no:cacheprovider",
            "tests/faults/test_kills.py",
        ],
        cwd=copy,
        env={**os.environ, SCALE: "hunt", SEED: str(seed)},
        capture_output=True,
        text=True,
        timeout=FIND_SECONDS,
        check=False,
    )
    seconds = time.monotonic() - started
    assert found.returncode == 1, f"not found; seed {seed}\n{found.stdout[-3000:]}"
    assert re.search(bug.seen, found.stdout), found.stdout[-5000:]
    with request.getfixturevalue("capsys").disabled():
        print(f"\n    {bug.name}: found after {seconds:.0f} s; seed {seed}")  # noqa: T201
