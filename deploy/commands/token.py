"""``estation token``: a bearer token of the local issuer, to try things out."""

import click

from contracts.codes import CITY
from deploy.commands import api


@click.command()
@click.option("--role", default="city_officer", show_default=True, help="city_officer, station_staff, ops ...")
@click.option("--scope", default=CITY, show_default=True, help="GB/T 2260 or reporting unit code")
@click.option("--subject", default="demo-officer", show_default=True, help="The person's id")
@click.option("--minutes", default=60, show_default=True, type=click.IntRange(1, 24 * 60))
def token(role: str, scope: str, subject: str, minutes: int) -> None:
    """Print a token; production refuses its key."""
    click.echo(api.token(subject, role, scope, minutes))
