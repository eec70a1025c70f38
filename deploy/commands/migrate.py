"""``estation migrate``: indexes of every database, topology of the broker. Running it again changes nothing."""

import importlib
import json
from pathlib import Path
from urllib.parse import unquote, urlsplit

import click

from contracts.catalogue import CATALOGUE
from deploy.run import KEYED, SERVICES
from services.kernel import audit, mongo, settings
from services.kernel.topology import Management, definitions


@click.command()
def migrate() -> None:
    """Create indexes, declare exchanges, queues, policies and users."""
    known = settings.read()
    for service in SERVICES:
        database = mongo.connect_documents(known, service, "migrate")
        importlib.import_module(f"services.{service}.store").ensure_indexes(database)
        click.echo(f"{database.name}: indexes are there")
    for service in KEYED:
        database = mongo.connect_documents(known, service, "migrate")
        importlib.import_module(f"services.{service}.vault").prepare(known, database)
        click.echo(f"{service}: keys, indexes of personal data and erasure ledger are there")
    operations = mongo.connect(known, audit.OPERATIONS, "migrate")
    audit.ensure_indexes(operations, audit.OPERATED)
    click.echo(f"{operations.name}: indexes are there")
    passwords = json.loads(Path(known.rabbitmq_passwords).read_text()) if known.rabbitmq_passwords else {}
    vhost = unquote(urlsplit(known.rabbitmq_url).path[1:]) or "/"
    removed = Management(known.rabbitmq_api).apply(definitions(CATALOGUE, vhost, passwords))
    for binding in removed:
        click.echo(f"removed a binding that the catalogue no longer has: {binding}")
    click.echo(f"vhost {vhost}: topology is there")
