"""``estation device``: enroll, list, rotate and revoke the devices of a station."""

import click

from deploy.commands.api import Api

BASE = "/stations"


@click.group()
def device() -> None:
    """Devices that post check-ins."""


@device.command()
@click.argument("station")
@click.option("--label", required=True, help="What staff call it")
def enroll(station: str, label: str) -> None:
    """Enroll a device for STATION and print its key, this once."""
    made = Api.officer().call("POST", f"{BASE}/stations/{station}/devices", {"label": label}, creates=True)
    click.echo(f"device {made['id']}\nkey    {made['key']}")


@device.command(name="list")
@click.argument("station")
def list_(station: str) -> None:
    """The devices of STATION."""
    for one in Api.officer().all(f"{BASE}/stations/{station}/devices"):
        click.echo(f"{one['id']}  {one['state']:<9} last seen {one.get('last_seen') or 'never'}  {one['label']}")


@device.command()
@click.argument("device_id")
def rotate(device_id: str) -> None:
    """A further key for DEVICE_ID; the one before stays live until the next rotation."""
    click.echo(f"key    {Api.officer().call('POST', f'{BASE}/devices/{device_id}/rotate')['key']}")


@device.command()
@click.argument("device_id")
@click.option("--reason", required=True)
def revoke(device_id: str, reason: str) -> None:
    """End DEVICE_ID's credentials for good, effective within a minute."""
    Api.officer().call("POST", f"{BASE}/devices/{device_id}/revoke", {"reason": reason})
    click.echo("revoked")
