"""The running services held against their own OpenAPI documents by schemathesis.

Every check of schemathesis is on, but for these exceptions (``CONFIG`` has them where they apply):

- ``negative_data_rejection`` is off where rows are posted: a row that is wrong is answered by its own result, the
  batch with 200. Elsewhere 412 and 413 refuse too, which schemathesis does not count as a refusal by itself.
- ``positive_data_acceptance`` takes 412 (a version that is not the present one) and 422: JSON Schema cannot say that
  a text is trimmed before it is measured, that one day follows another, that 3.0 is no whole number to us. Metrics
  answers 400 to a cursor that is not one of its own.
- ``missing_required_header`` takes 428 (RFC 6585), which is what we answer.

Most free texts and ids are taken from dictionaries, or few requests would come further than their validation.

``ESTATION_SCHEMATHESIS_SECONDS`` makes each run go on for so long; without it a run is bounded by its examples.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

from services.kernel import mongo
from services.metrics import store as metrics_store
from tests.integration.stations_api import UNLIMITED, Stations, ago, row
from tests.parts import World
from tests.people import People

SEED: Final = 20250716
SECONDS: Final = int(os.environ.get("ESTATION_SCHEMATHESIS_SECONDS", "0"))
EXAMPLES: Final = 8
CONFIG: Final = """
[generation]
codec = "utf-8"  # lone surrogates are no UTF-8: tests of bad input send them
database = "none"
no-shrink = true

[checks]
missing_required_header.expected-statuses = [400, 401, 403, 406, 415, 422, 428]
negative_data_rejection.expected-statuses = [400, 401, 403, 404, 405, 406, 412, 413, 415, 422, 428]
positive_data_acceptance.expected-statuses = ["2xx", 401, 403, 404, 409, 412, 422]

[[operations]]
include-operation-id = ["post_stations_checkins", "post_stations_checkins_import"]
checks.negative_data_rejection.enabled = false

[[operations]]
include-operation-id = ["get_metrics_events", "get_metrics_rollups"]
checks.positive_data_acceptance.expected-statuses = ["2xx", 400, 401, 403, 404, 409, 412, 422]
"""


@dataclass(frozen=True, slots=True)
class Target:
    """A service, a caller, and ids of things that are there, by the noun in the address."""

    url: str
    token: str
    ids: dict[str, list[str]]
    operations: tuple[str, ...] = ()
    """Only these; all if none is named."""


@pytest.fixture(scope="module")
def stations(shared_world: World) -> Iterator[Stations]:
    """The stations service without its relay."""
    with Stations(shared_world, relay=False) as running:
        yield running


def stations_as_officer(stations: Stations) -> Target:
    """A city officer, with several of everything: one may close, revoke or void some of it."""
    ids: dict[str, list[str]] = {name: [] for name in ("stations", "devices", "checkins", "faults", "supplies")}
    for _copy in range(3):
        kiosk = stations.kiosk()
        sent = [row(), row(captured_at=ago(days=40))]
        kiosk.api.checkins(*sent)
        stock = {"station": kiosk.station, "item": "水", "quantity": 1, "unit": "箱"}
        ids["stations"].append(kiosk.station)
        ids["devices"].append(kiosk.id)
        ids["checkins"] += [kiosk.checkin_id(each["id"]) for each in sent]
        ids["faults"].append(kiosk.api.post("/faults", {"kind": "power"}).json["id"])
        ids["supplies"].append(stations.officer.post("/supplies", stock).json["id"])
    return Target(f"{stations.origin}/api/v1/stations/openapi.json", stations.officer.token, ids)


def stations_as_device(stations: Stations) -> Target:
    """A device with its key, where devices are let in."""
    operations = ("post_stations_checkins", "post_stations_heartbeats", "post_stations_faults", "get_stations_open")
    return Target(f"{stations.origin}/api/v1/stations/openapi.json", stations.kiosk().key, {}, operations)


def metrics_as_officer(stations: Stations) -> Target:
    """A city officer at the metrics service."""
    world = stations.world
    database = mongo.connect(world.settings("metrics"), "metrics", "test")
    metrics_store.ensure_indexes(database)
    database.client.close()
    process = world.process("service", "metrics", **UNLIMITED).start()
    return Target(f"http://127.0.0.1:{process.http_port}/api/v1/metrics/openapi.json", stations.officer.token, {})


def people_as_officer(stations: Stations) -> Target:
    """A city officer at the people service, with accounts to grant roles to and logins to end."""
    with People(stations.world, ESTATION_LOOKS_PER_MINUTE="1000000") as people:
        officer = people.account("370902", ("city_officer", "370900"))
        token = stations.world.token(officer)
        ids = {
            "accounts": [people.account(county) for county in ("370902", "370982", "370911")],
            "sessions": [people.session(officer) for _copy in range(3)],
        }
        return Target(f"{people.origin}/api/v1/people/openapi.json", token, ids)


WORDS: Final = {
    "words": ["驿站一号", "as planned", "x", "0"],
    "years": ["2025", "2026"],
    "instants": ["2025-07-16T09:30:00+08:00", "2099-12-31T23:59:59-12:00", "2000-01-01T00:00:00Z"],
}
PLACES: Final = {
    **dict.fromkeys(
        (f"body.{name}" for name in ("reason", "name", "address", "label", "item", "unit", "note")), "words"
    ),
    **dict.fromkeys(("body.captured_at", "body.sent_at", "body.items[*].captured_at"), "instants"),
    "body.station": "stations",
    "body.device": "devices",
    "path.year": "years",
}
"""The dictionary that most values of a field come from."""


def configured(target: Target) -> str:
    """CONFIG with the caller and what is known."""
    known = {**WORDS, **target.ids}
    often = {place: name for place, name in PLACES.items() if name in known}
    lines = [
        f"seed = {SEED}",
        f"hooks = {json.dumps(str(Path(__file__).with_name('schemathesis_hooks.py')))}",
        'headers = { Authorization = "Bearer ' + target.token + '" }',
        f"parameters = {{ {', '.join(binding(place, name) for place, name in often.items())} }}",
        CONFIG,
    ]
    for name, values in known.items():
        lines += [f"[dictionaries.{name}]", f"values = {json.dumps(values, ensure_ascii=False)}"]
    for noun in target.ids:
        lines += [
            "[[operations]]",
            f"include-path-regex = '/{noun}/\\{{id\\}}'",
            f"parameters = {{ {binding('path.id', noun)} }}",
        ]
    return "\n".join(lines)


def binding(place: str, dictionary: str) -> str:
    """TOML: values of a place come from a dictionary, mostly."""
    return f'"{place}" = {{ dictionary = "{dictionary}", probability = 0.8 }}'


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("made", [stations_as_officer, stations_as_device, metrics_as_officer, people_as_officer])
def test_the_service_does_what_its_openapi_says(stations: Stations, tmp_path: Path, made: object) -> None:
    assert callable(made)
    target: Target = made(stations)
    config = tmp_path / "schemathesis.toml"
    config.write_text(configured(target), "utf-8")
    bound = ["--max-time", str(SECONDS)] if SECONDS else ["--max-examples", str(EXAMPLES)]
    only = [argument for name in target.operations for argument in ("--include-operation-id", name)]
    command = [sys.executable, "-m", "schemathesis.cli", "--config-file", str(config), "run", target.url]
    ran = subprocess.run(
        [*command, "--continue-on-failure", "--no-color", *bound, *only], cwd=tmp_path, capture_output=True, text=True
    )
    sys.stdout.write(f"seed {SEED}\n{ran.stdout[-1500:]}")
    assert ran.returncode == 0, f"seed {SEED}\n{ran.stdout[-12000:]}\n{ran.stderr[-2000:]}"
