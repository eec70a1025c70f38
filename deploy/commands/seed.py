"""``estation seed``: demo data through the API, once. Everything in it is made up and says so."""

import itertools
import random
import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import click

from contracts.codes import UNITS, Facility, ServiceKind
from deploy.commands.api import Api
from services.kernel import settings

STATIONS_A_UNIT = 3
SEED = 2025


@click.command()
def seed() -> None:
    """Load demo stations with a few check-ins each, unless there are stations already."""
    if settings.read().production:
        raise click.ClickException("demo data is not for production")
    officer = Api.officer()
    if settings.read().demo_issuer:
        made = officer.call("POST", "/people/demo-accounts")["accounts"]
        click.echo(f"{made} demo persons can log in")
    if officer.call("GET", "/stations/stations?limit=1")["items"]:
        click.echo("there are stations already: nothing to do")
        return
    dice = random.Random(SEED)  # noqa: S311 (demo data)
    for unit, number in itertools.product(UNITS.values(), range(1, STATIONS_A_UNIT + 1)):
        _station(officer, dice, unit.code, f"示范驿站·{unit.zh}{number}号", number)
    click.echo(f"{len(UNITS) * STATIONS_A_UNIT} demo stations opened")


def _station(officer: Api, dice: random.Random, county: str, name: str, number: int) -> None:
    facilities = [Facility.WATER, Facility.REST, *([Facility.MOTHER_ROOM] if number == 1 else [])]
    facilities += dice.sample([Facility.MICROWAVE, Facility.CHARGING, Facility.FIRST_AID, Facility.TOILET], 2)
    station = officer.call(
        "POST",
        "/stations/stations",
        {
            "county": county,
            "name": name,
            "address": f"示范路 {number} 号",
            "facilities": facilities,
            "opens": "00:00",
            "closes": "00:00",
        },
        creates=True,
    )
    officer.call("POST", f"/stations/stations/{station['id']}/open", {"reason": "演示数据"})
    device = officer.call("POST", f"/stations/stations/{station['id']}/devices", {"label": "演示平板"}, creates=True)
    Api(device["key"]).call("POST", "/stations/checkins", {"items": [_row(dice) for _ in range(dice.randint(3, 9))]})
    if number == STATIONS_A_UNIT:
        _trouble(officer, Api(device["key"]), dice, station)


def _row(dice: random.Random, **changes: object) -> dict[str, Any]:
    return {
        "id": str(uuid.uuid4()),
        "captured_at": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "kind": dice.choice([ServiceKind.REST, ServiceKind.WATER, ServiceKind.MEAL, ServiceKind.CHARGING]),
        "people": dice.choice([1, 1, 1, 2, 3]),
        **changes,
    }


def _trouble(officer: Api, device: Api, dice: random.Random, station: dict[str, Any]) -> None:
    """What an officer's desk has to show: a quarantined row, a fault, supplies that expire."""
    now = datetime.now(UTC)
    tomorrow = _row(dice, captured_at=(now + timedelta(days=1)).isoformat())
    device.call("POST", "/stations/checkins", {"items": [tomorrow]})
    device.call("POST", "/stations/heartbeats", {"unsent": 0})
    device.call("POST", "/stations/faults", {"kind": "water", "note": "演示:饮水机待修"}, creates=True)
    expires_on = (now + timedelta(days=20)).date().isoformat()
    supply = {"station": station["id"], "item": "创可贴", "quantity": 20, "unit": "盒", "expires_on": expires_on}
    officer.call("POST", "/stations/supplies", supply, creates=True)
