"""What the figures were measured on: the machine and the versions."""

import os
import platform
import re
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import psutil  # type: ignore[import-untyped]

from deploy.local import mongodb
from services.kernel.topology import Management
from tests.parts import Parts

OURS: Final = ("nameko", "eventlet", "marshmallow", "pymongo", "amqp", "pika")


def describe(parts: Parts) -> dict[str, Any]:
    """Cores, processor, memory, load before the first round; versions of everything ours stands on."""
    model = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), flags=re.MULTILINE)
    overview = Management(parts.rabbitmq.api).call("GET", "/overview")
    return {
        "cores": os.cpu_count(),
        "processor": model[1] if model else platform.processor(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "load_before": round(os.getloadavg()[0], 2),
        "system": platform.platform(),
        "versions": {
            "python": platform.python_version(),
            "mongod": mongodb.hello(parts.mongodb_url)["version"],
            "rabbitmq": overview["rabbitmq_version"],
            **{name: version(name) for name in OURS},
        },
    }


def lines(machine: dict[str, Any]) -> str:
    """The same for people."""
    versions = " ".join(f"{name} {number}" for name, number in machine["versions"].items())
    return (
        f"{machine['cores']} cores, {machine['processor']}, {machine['memory_gib']} GiB, "
        f"load {machine['load_before']} before; {machine['system']}\n{versions}"
    )
