"""One whole system for all tests here, as `estation up` starts it."""

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.parts import PROJECT

OFFSET = 3000


@dataclass
class System:
    """A running system of its own, and its commands."""

    var: Path
    environ: dict[str, str]

    @property
    def edge(self) -> str:
        """Its one origin."""
        return f"http://127.0.0.1:{8080 + OFFSET}"

    def run(self, *command: str, ok: bool = True, seconds: float = 120) -> str:
        """The output of an `estation` command."""
        done = subprocess.run(
            [sys.executable, "-m", "deploy.cli", *command],
            cwd=PROJECT,
            env=self.environ,
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )
        assert (done.returncode == 0) == ok, done.stdout + done.stderr
        return done.stdout + done.stderr

    def settings(self) -> dict[str, str]:
        """What the launcher hands to commands."""
        from deploy.local import layout, system

        return system.settings(layout.read(self.environ), self.environ)


@pytest.fixture(scope="package")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """`estation up` in a folder whose path has a space, on shifted ports."""
    var = tmp_path_factory.mktemp("a system") / "var"
    source = Path(os.environ.get("ESTATION_VAR", PROJECT / "var")) / "rabbitmq" / "dist"
    if source.exists():  # an unpacked broker is fetched once, not for every test run
        (var / "rabbitmq").mkdir(parents=True)
        (var / "rabbitmq" / "dist").symlink_to(source.resolve())
    environ = {**os.environ, "ESTATION_VAR": str(var), "ESTATION_PORT_OFFSET": str(OFFSET)}
    made = System(var, environ)
    try:
        made.run("up", "--detach", seconds=200)
        yield made
    finally:
        made.run("down")
