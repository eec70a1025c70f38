"""One process of one role: ``python -m deploy.run service stations``, ``relay stations``, ``aggregator``, ``sealer``.

A nameko service monkey-patches before anything else is imported; the others are plain processes.
"""

import importlib
import sys
import warnings

SERVICES = ("stations", "metrics", "people")
PUBLISHERS = ("stations", "people")
KEYED = ("people",)
"""Services with personal data: each has a ``vault`` over keys of its own."""
PERSONS = "people"
"""The one that gives out person_ref."""


def main(arguments: list[str]) -> None:
    """Runs the role until SIGTERM."""
    match arguments:
        case ["service", name] if name in SERVICES:
            warnings.filterwarnings("ignore", message=r"\s*Eventlet is deprecated")  # docs/adr/0001
            import eventlet

            eventlet.monkey_patch()
            settings = _settings(name)
            importlib.import_module(f"services.{name}.service").run(settings)
        case ["relay", name] if name in PUBLISHERS:
            _relay(name)
        case ["aggregator"]:
            settings = _settings("aggregator")
            importlib.import_module("services.metrics.aggregator").run(settings)
        case ["sealer"]:
            _sealer()
        case _:
            raise SystemExit(
                f"usage: python -m deploy.run service {SERVICES} | relay {PUBLISHERS} | aggregator | sealer"
            )


def _settings(role: str):  # type: ignore[no-untyped-def]  # noqa: ANN202 (importing the type would import too early)
    from services.kernel import logging, settings

    known = settings.read()
    logging.configure(role, known.log_level)
    return known


def _relay(name: str) -> None:
    from services.kernel import clock, mongo, process, relay, telemetry

    settings = _settings(f"relay-{name}")
    sources = importlib.import_module(f"services.{name}.store").SOURCES
    database = mongo.connect(settings, name, "relay")
    process.await_database(database)
    worker = relay.Relay(name, database, sources, settings.rabbitmq_url, holder=process.holder())
    readiness = telemetry.Readiness()
    readiness.add("database", lambda: bool(database.client.admin.command("ping")["ok"]))
    telemetry.before_scrape(lambda: relay.observe_pending(name, database, sources, clock.now))
    process.run_worker(worker, settings, readiness)


def _sealer() -> None:
    from services.kernel import process, sealer, telemetry

    settings = _settings("sealer")
    audited = {name: importlib.import_module(f"services.{name}.store").AUDITED for name in PUBLISHERS}
    worker, database = sealer.sealers(settings, audited, process.holder())
    process.await_database(database)
    readiness = telemetry.Readiness()
    readiness.add("database", lambda: bool(database.client.admin.command("ping")["ok"]))
    process.run_worker(worker, settings, readiness)


if __name__ == "__main__":
    main(sys.argv[1:])
