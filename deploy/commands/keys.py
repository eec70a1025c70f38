"""``estation keys``: the master keys behind personal data: how many there are, a fresh one, an old one taken out."""

import importlib
import time
from typing import Any, Final

import click
from pymongo import MongoClient

from deploy.run import KEYED
from services.kernel import masterkeys, mongo, settings
from services.kernel.mongo import Document
from services.kernel.settings import Settings

SETTLE_SECONDS: Final = 2.0
"""A process that wrapped a key at the moment of the change has stored it by then."""
_service = click.argument("service", type=click.Choice(KEYED))


@click.group()
def keys() -> None:
    """Master keys of the services with personal data."""


@keys.command()
@_service
def status(service: str) -> None:
    """How many persons' keys each master key wraps."""
    vault, client = _vault(service)
    with client:
        for id_, count in sorted(vault.keys.wrapped().items()):
            click.echo(f"{id_}: {count} persons{' (current)' if id_ == vault.file.current else ''}")


@keys.command()
@_service
def rotate(service: str) -> None:
    """Make a fresh master key the current one and wrap every person's key anew, while the system runs."""
    known = settings.read()
    id_ = masterkeys.rotate_key_file(known.key_file(service))
    click.echo(f"{service}: the current master key is {id_}; keep a copy apart from the data")
    _rewrap(service, known)


@keys.command()
@_service
def rewrap(service: str) -> None:
    """Wrap what older master keys still wrap under the current one."""
    _rewrap(service, settings.read())


@keys.command()
@_service
@click.argument("id_", metavar="ID")
def retire(service: str, id_: str) -> None:
    """Take master key ID out of the file; refused while it wraps anybody's key.

    Backups of the keys that were made before the rotation open with it only: wait until the last of them has ended.
    """
    vault, client = _vault(service)
    with client:
        held = vault.keys.wrapped().get(id_, 0)
    if held:
        raise click.ClickException(f"{id_} still wraps the keys of {held} persons: `estation keys rewrap {service}`")
    try:
        masterkeys.retire_master_key(settings.read().key_file(service), id_)
    except ValueError as error:
        raise click.ClickException(str(error)) from error
    click.echo(f"{service}: {id_} is out of the file")


def _rewrap(service: str, known: Settings) -> None:
    vault, client = _vault(service, known)
    with client:
        for _round in range(2):
            while left := vault.keys.rewrap():
                click.echo(f"{service}: {left} to go")
            time.sleep(SETTLE_SECONDS)
        click.echo(f"{service}: every person's key is under {vault.file.current}")


def _vault(service: str, known: Settings | None = None) -> tuple[Any, MongoClient[Document]]:
    known = known or settings.read()
    database = mongo.connect(known, service, "keys")
    return importlib.import_module(f"services.{service}.vault").Vault(known, database), database.client
