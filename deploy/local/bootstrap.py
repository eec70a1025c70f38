"""Makes ``.venv`` and installs the pinned requirements when they have changed; run by ``make`` with any Python.

Imports the standard library only, and nothing of ours: it comes before everything.
"""

import hashlib
import os
import subprocess
import sys
import time
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]
VENV = PROJECT / ".venv"
PYTHON = VENV / "bin" / "python"
FILES = {"local": "requirements/local.txt", "dev": "requirements/dev.txt"}
OLDEST, NEWEST = (3, 11), (3, 14)


def main(kind: str) -> None:
    """Brings ``.venv`` to the state of ``requirements/<kind>.txt``; does nothing if it is in that state."""
    if not OLDEST <= sys.version_info[:2] < NEWEST:
        found = ".".join(map(str, sys.version_info[:3]))
        sys.exit(f"Python {found} does not do, 3.11 to 3.13 does: name one, as in `make PYTHON=python3.11 up`")
    stamp = VENV / f"estation-{kind}"
    if stamp.exists() and stamp.read_text() == _digest(kind):
        return
    if not _works(PYTHON):
        _step("virtual environment", sys.executable, "-m", "venv", "--clear", str(VENV))
    pip = (str(PYTHON), "-m", "pip", "install", "--quiet", "--no-input", "--disable-pip-version-check")
    _step("requirements", *pip, "--require-hashes", "--requirement", str(PROJECT / FILES[kind]))
    _step("project", *pip, "--no-deps", "--no-build-isolation", "--editable", str(PROJECT))
    # `dev` holds all of `local`, not the other way round
    for known in FILES:
        (VENV / f"estation-{known}").unlink(missing_ok=True)
    for known in {kind, "local"}:
        (VENV / f"estation-{known}").write_text(_digest(known))


def _digest(kind: str) -> str:
    """What the environment is made from, and where: a moved one has to be made anew."""
    return hashlib.sha256(os.fsencode(PROJECT) + (PROJECT / FILES[kind]).read_bytes()).hexdigest()


def _works(python: Path) -> bool:
    """Whether there is an environment with a pip and a Python of ours; a half-made or a moved one is made anew."""
    probe = f"import pip, sys; sys.exit(not {OLDEST} <= sys.version_info[:2] < {NEWEST})"
    try:
        return subprocess.run([python, "-c", probe], capture_output=True, check=False).returncode == 0
    except OSError:
        return False


def _step(name: str, *command: str) -> None:
    started = time.monotonic()
    print(f"  {name:<34}", end="", flush=True)
    environment = {**os.environ, "PYTHONPATH": ""}
    done = subprocess.run(command, cwd=PROJECT, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        print(" failed")
        said = done.stderr + done.stdout
        if "ensurepip" in said:
            version = f"{sys.version_info[0]}.{sys.version_info[1]}"
            sys.exit(f"This Python cannot make virtual environments: sudo apt-get install python{version}-venv")
        sys.exit(said.strip() or f"{name}: it gave no reason")
    print(f"{time.monotonic() - started:6.1f} s", flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
