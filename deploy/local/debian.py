"""Gets packages of Debian or Ubuntu: installed as root, otherwise unpacked into a folder of ours."""

import contextlib
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from deploy.local.errors import LauncherError

MACHINE = Path("/")
POLICY = Path("/usr/sbin/policy-rc.d")
APT = {"DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C.UTF-8"}
NAME = re.compile(r"[a-z0-9][a-z0-9+.-]+")


def available() -> bool:
    """Whether this is a Debian or an Ubuntu with its tools."""
    return Path("/etc/debian_version").exists() and bool(shutil.which("apt-get") and shutil.which("dpkg-deb"))


def provide(packages: Sequence[str], folder: Path, keep_off: Sequence[str] = ()) -> Path:
    """Makes packages usable and returns the root they live under: ``/``, or ``folder`` where this user may not install.

    Services named in ``keep_off`` are started neither now nor with the machine: we run nodes of our own.

    Raises:
        LauncherError: with the last word of apt.
    """
    if os.geteuid() == 0:
        _install(packages, keep_off)
        return MACHINE
    unpack(packages, folder)
    return folder


def libraries(root: Path) -> str:
    """LD_LIBRARY_PATH for programs under ``root``; empty where the machine's own paths do."""
    if root == MACHINE:
        return ""
    return ":".join(str(path) for pattern in ("lib/*-linux-gnu", "usr/lib/*-linux-gnu") for path in root.glob(pattern))


def _install(packages: Sequence[str], keep_off: Sequence[str]) -> None:
    ours = not POLICY.exists()
    if ours:
        POLICY.write_text("#!/bin/sh\nexit 101\n", encoding="ascii")
        POLICY.chmod(0o755)
    try:
        _after_refresh(
            lambda: _run("apt-get", "install", "-y", "-qq", "--no-install-recommends", *packages),
            lambda: _run("apt-get", "update", "-qq"),
        )
    finally:
        if ours:
            POLICY.unlink()
    # should that fail, the machine's next start brings up one that is in nobody's way: our ports are others
    with contextlib.suppress(LauncherError):
        if keep_off and shutil.which("systemctl"):
            _run("systemctl", "disable", "--quiet", *keep_off)
        for name in (unit.removesuffix(".service") for unit in keep_off):
            if Path("/etc/init.d", name).exists():
                _run("update-rc.d", name, "disable")


def unpack(packages: Sequence[str], folder: Path) -> None:
    """Downloads packages and what the machine lacks for them, and unpacks them into ``folder``; installs nothing.

    Raises:
        LauncherError: with the last word of apt.
    """
    work = folder.with_name(f"{folder.name}.new")
    shutil.rmtree(work, ignore_errors=True)
    (work / "deb").mkdir(parents=True)
    state = folder.with_name("apt")
    private = work / "apt.conf"
    # hooks of the machine's own configuration clean folders that only root may touch
    hooks = "\n".join(
        f"#clear {hook};"
        for hook in ("APT::Update::Post-Invoke", "APT::Update::Post-Invoke-Success", "DPkg::Post-Invoke")
    )
    private.write_text(f'{hooks}\nDir::Cache "{state}/cache";\n', encoding="utf-8")

    for part in ("lists/partial", "cache/archives/partial"):
        (state / part).mkdir(parents=True, exist_ok=True)

    def refresh() -> None:
        with private.open("a", encoding="utf-8") as conf:
            conf.write(f'Dir::State::lists "{state}/lists";\n')
        _run("apt-get", "-c", str(private), "-qq", "update")

    def download() -> None:
        wanted = _closure(packages, private)
        _run("apt-get", "-c", str(private), "-qq", "download", *wanted, cwd=work / "deb")

    _after_refresh(download, refresh)
    for package in sorted((work / "deb").glob("*.deb")):
        _run("dpkg-deb", "--extract", str(package), str(work))
    for rest in (work / "deb", state):
        shutil.rmtree(rest, ignore_errors=True)
    shutil.rmtree(folder, ignore_errors=True)
    work.rename(folder)


def _closure(packages: Sequence[str], private: Path) -> list[str]:
    """What has to be unpacked: all that the machine lacks, and every Erlang part, or two Erlangs would mix."""
    plan = _run("apt-get", "-c", str(private), "install", "--simulate", "--no-install-recommends", *packages)
    missing = re.findall(r"^Inst (\S+)", plan, flags=re.MULTILINE)
    quiet = (f"--no-{kind}" for kind in ("recommends", "suggests", "conflicts", "breaks", "replaces", "enhances"))
    tree = _run("apt-cache", "-c", str(private), "depends", "--recurse", *quiet, *packages)
    erlang = (name for name in tree.splitlines() if name.startswith("erlang-") and NAME.fullmatch(name))
    return sorted({*packages, *missing, *erlang})


def _after_refresh(act: Callable[[], object], refresh: Callable[[], object]) -> None:
    """Package lists may be absent (containers ship none) or too old to download by: then refresh them and try again."""
    try:
        act()
    except LauncherError:
        refresh()
        act()


def _run(*command: str, cwd: Path | None = None) -> str:
    done = subprocess.run(command, cwd=cwd, env={**os.environ, **APT}, capture_output=True, text=True, check=False)
    if done.returncode:
        raise LauncherError(
            f"{command[0]} did not succeed: {_last_word(done.stderr.splitlines() + done.stdout.splitlines())}"
        )
    return done.stdout


def _last_word(lines: Iterable[str]) -> str:
    said = [line.strip() for line in lines if line.strip()]
    errors = [line for line in said if line.startswith("E:")]
    return (errors or said or ["it gave no reason"])[-1]
