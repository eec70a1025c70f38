"""``estation erasures``: who was erased, as the ledgers say, and erasing them again after a restore."""

import importlib

import click

from deploy.acts import noted
from deploy.run import KEYED
from services.kernel import clock, mongo, settings
from services.kernel.erasure import FileLedger, LedgerUnreadable
from services.kernel.settings import Settings


@click.group()
def erasures() -> None:
    """The ledgers of erased persons, which lie outside all databases and their backups."""


@erasures.command("list")
def list_() -> None:
    """Every erased person, by number, oldest first."""
    known = settings.read()
    for service in KEYED:
        try:
            for erasure in FileLedger(known.erasure_ledger(service)).all():
                click.echo(f"{service} {erasure.subject} {clock.rfc3339(erasure.at)}")
        except LedgerUnreadable as error:
            raise click.ClickException(f"{service}: {error}") from error


@erasures.command()
def replay() -> None:
    """Erase again whom a restored backup brought back; every service does the same before it is ready."""
    known = settings.read()
    with noted("erasures.replay") as act:
        for service in KEYED:
            act[service] = erase_again(known, service)
            click.echo(f"{service}: {act[service]} keys destroyed again")


def erase_again(known: Settings, service: str) -> int:
    """Replays a service's ledger; how many keys that destroyed.

    Raises:
        ClickException: the ledger is missing or damaged.
    """
    database = mongo.connect_documents(known, service, "erasures")
    with database.client:
        vault = importlib.import_module(f"services.{service}.vault").Vault(known, database)
        try:
            destroyed: int = vault.replay()
        except LedgerUnreadable as error:
            raise click.ClickException(f"{service}: {error}") from error
    return destroyed
