"""``estation appoint``: the first officers, whom nobody could grant a role yet; the others get theirs from them."""

import getpass

import click

from contracts import roles
from contracts.codes import PLACES
from services.kernel import auth, clock, mongo, settings, telemetry
from services.kernel.act import Act
from services.kernel.errors import EStationError
from services.people.handlers import grants
from services.people.models import ALIAS
from services.people.store import Store


@click.command()
@click.argument("account")
@click.argument("role", type=click.Choice(list(map(str, roles.GRANTED))))
@click.argument("scope", type=click.Choice(PLACES))
@click.option("--reason", required=True, help="Who decided it; goes into the audit trail, so it must name nobody")
def appoint(account: str, role: str, scope: str, reason: str) -> None:
    """Grant ROLE over the district SCOPE to ACCOUNT (the number on its page /people/sessions)."""
    store = Store(mongo.connect_documents(settings.read(), ALIAS, "cli"))
    act = Act(auth.system(f"cli:{getpass.getuser()}"), clock.now(), telemetry.continued(None))
    try:
        appointed = grants.appoint(store, act, account, role, scope, reason)
    except EStationError as error:
        raise click.ClickException(f"{account}: {error.code}") from error
    click.echo(f"{account}: {', '.join(grant['role'] for grant in appointed['grants'])} over {scope}")
