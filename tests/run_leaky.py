"""The stations service without its district filter: a leak that the matrix has to find."""

import warnings
from typing import Any


def main() -> None:
    """Runs until SIGTERM."""
    warnings.filterwarnings("ignore", message=r"\s*Eventlet is deprecated")
    import eventlet

    eventlet.monkey_patch()
    from services.kernel import logging, settings
    from services.stations import service
    from services.stations.store import Model, Store

    def unscoped(model: Model, actor: object) -> Any:
        del actor
        return model.objects

    Store._scoped = staticmethod(unscoped)  # type: ignore[method-assign]
    known = settings.read()
    logging.configure("stations", known.log_level)
    service.run(known)


if __name__ == "__main__":
    main()
