"""One process of the probe: ``python -m tests.run_probe service|relay|deaf probe``; patched before all imports."""

import importlib
import sys
import warnings


def main(role: str) -> None:
    """Runs the role until SIGTERM."""
    if role != "relay":
        warnings.filterwarnings("ignore", message=r"\s*Eventlet is deprecated")
        import eventlet

        eventlet.monkey_patch()
    from services.kernel import logging, settings

    told = settings.read()
    logging.configure(f"{role}-probe", told.log_level)
    importlib.import_module("tests.probe").ROLES[role](told)


if __name__ == "__main__":
    main(sys.argv[1])
