"""``estation keys``: the master keys behind personal data, and the keys that tokens are signed with."""

import importlib
import json
from datetime import UTC, datetime
from pathlib import Path
from time import sleep
from typing import Any, Final

import click
from pymongo import MongoClient

from deploy.acts import noted
from deploy.archives import whole_file
from deploy.run import KEYED, PERSONS
from services.kernel import auth, clock, masterkeys, mongo, settings
from services.kernel.mongo import Document
from services.kernel.settings import SettingError, Settings
from services.people import tokens

SETTLE_SECONDS: Final = 15.0
"""Three times what a write may take (``timeoutMS`` in services/kernel/mongo.py): who wrapped a key under the old master
key at the moment of the change has stored it by then, or never will."""
_service = click.argument("service", type=click.Choice(KEYED))
_settle = click.option(
    "--settle",
    default=SETTLE_SECONDS,
    show_default=True,
    type=click.FloatRange(min=0),
    help="Seconds to wait for writes under way before the last look",
)
_kid = click.argument("kid", metavar="ID")


@click.group()
def keys() -> None:
    """Master keys of the services with personal data; keys that tokens are signed with."""


@keys.command()
@_service
@click.option(
    "--federation/--no-federation", default=None, help=f"With the key of person_ref  [default: for {PERSONS} only]"
)
def create(service: str, federation: bool | None) -> None:
    """Make a fresh key file for production; refused where there is one.

    Not for a file that was lost: what the lost keys sealed opens with them only.
    """
    path = settings.read().key_file(service)
    if path.exists():
        raise click.ClickException(f"{path} is there: `estation keys rotate {service}` makes a fresh master key")
    masterkeys.create_key_file(path, demo=False, federation=service == PERSONS if federation is None else federation)
    click.echo(f"{path}: keep a copy apart from the data and its backups")


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
@_settle
def rotate(service: str, settle: float) -> None:
    """Make a fresh master key the current one and wrap every person's key anew, while the system runs."""
    known = settings.read()
    with noted("keys.rotate", service=service) as act:
        act["current"] = masterkeys.rotate_key_file(known.key_file(service))
        click.echo(f"{service}: the current master key is {act['current']}; keep a copy apart from the data")
        _rewrap(service, known, settle)


@keys.command()
@_service
@_settle
def rewrap(service: str, settle: float) -> None:
    """Wrap what older master keys still wrap under the current one."""
    with noted("keys.rewrap", service=service):
        _rewrap(service, settings.read(), settle)


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
    with noted("keys.retire", service=service, key=id_):
        try:
            masterkeys.retire_master_key(settings.read().key_file(service), id_)
        except ValueError as error:
            raise click.ClickException(str(error)) from error
    click.echo(f"{service}: {id_} is out of the file")


@keys.group()
def signing() -> None:
    """Keys that tokens are signed with: add the next, use it when all have fetched it, drop the old one."""


@signing.command("create")
def create_signing() -> None:
    """Make the file with a first key; refused where there is one."""
    path = _signing_file()
    if path.exists():
        raise click.ClickException(f"{path} is there: `estation keys signing add` adds the next key")
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    key = tokens.new_key()
    _write_signing(path, {"current": key["kid"], "keys": [key], "added": {}, "replaced": {}})
    click.echo(f"{path}: tokens are signed with {key['kid']}")


@signing.command()
def add() -> None:
    """Add the next key: it is published, and signs nothing yet."""
    path = _signing_file()
    document, key = _read_signing(path), tokens.new_key()
    with noted("keys.signing.add", key=key["kid"]):
        document["keys"].append(key)
        document["added"][key["kid"]] = clock.rfc3339(clock.now())
        _write_signing(path, document)
    wait = int(auth.KEYS_STALE_SECONDS)
    click.echo(
        f"{key['kid']} is published; in {wait} s every service knows it: `estation keys signing use {key['kid']}`"
    )


@signing.command()
@_kid
@click.option("--now", is_flag=True, help="Services that have not fetched the key yet refuse tokens until they do")
def use(kid: str, now: bool) -> None:
    """Sign with key ID from now on; refused until every service has fetched it."""
    path = _signing_file()
    document = _read_signing(path)
    _refuse_unknown(document, kid)
    was = document["current"]
    if kid == was:
        raise click.ClickException(f"{kid} is the current key already")
    left = _seconds_left(path, document["added"].get(kid), auth.KEYS_STALE_SECONDS)
    if left > 0 and not now:
        raise click.ClickException(f"not every service knows {kid}: wait {left:.0f} s, or say --now")
    with noted("keys.signing.use", key=kid, replaced=was, at_once=now):
        document["current"] = kid
        document["replaced"][was] = clock.rfc3339(clock.now())
        document["replaced"].pop(kid, None)
        _write_signing(path, document)
    click.echo(f"tokens are signed with {kid}; in {auth.TOKEN_SECONDS} s: `estation keys signing drop {was}`")


@signing.command()
@_kid
@click.option("--now", is_flag=True, help="Tokens that it signed are refused: for a key that was carried off")
def drop(kid: str, now: bool) -> None:
    """Take key ID out of the file; refused for the current one, and while tokens that it signed are good."""
    path = _signing_file()
    document = _read_signing(path)
    _refuse_unknown(document, kid)
    if kid == document["current"]:
        raise click.ClickException(f"{kid} is the current key: `estation keys signing use` another one first")
    left = _seconds_left(path, document["replaced"].get(kid), auth.TOKEN_SECONDS)
    if left > 0 and not now:
        raise click.ClickException(f"tokens of {kid} may still be good: wait {left:.0f} s, or say --now")
    with noted("keys.signing.drop", key=kid, at_once=now):
        document["keys"] = [key for key in document["keys"] if key["kid"] != kid]
        for times in (document["added"], document["replaced"]):
            times.pop(kid, None)
        _write_signing(path, document)
    click.echo(f"{kid} is out of the file")


def _rewrap(service: str, known: Settings, settle: float) -> None:
    """Returns when no key was under an old master key after a wait of ``settle`` seconds."""
    vault, client = _vault(service, known)
    with client:
        while True:
            while left := vault.keys.rewrap():
                click.echo(f"{service}: {left} to go")
            sleep(settle)
            if vault.keys.wrapped().keys() <= {vault.file.current}:
                break
        click.echo(f"{service}: every person's key is under {vault.file.current}")


def _vault(service: str, known: Settings | None = None) -> tuple[Any, MongoClient[Document]]:
    known = known or settings.read()
    database = mongo.connect(known, service, "keys")
    return importlib.import_module(f"services.{service}.vault").Vault(known, database), database.client


def _signing_file() -> Path:
    said = settings.read().signing_keys
    if not said:
        raise SettingError(tokens.SETTING, "this file is needed")
    return Path(said)


def _read_signing(path: Path) -> dict[str, Any]:
    """The file in its long form; besides what :class:`tokens.SigningKeys` reads, when keys were added and replaced."""
    tokens.SigningKeys(path, production=settings.read().production)  # refuses what the service would refuse
    document: dict[str, Any] = json.loads(path.read_bytes())
    if "kty" in document:
        document = {"current": document["kid"], "keys": [document]}
    return {"added": {}, "replaced": {}, **document}


def _write_signing(path: Path, document: dict[str, Any]) -> None:
    with whole_file(path) as file:
        file.write(json.dumps(document, indent=1).encode())


def _refuse_unknown(document: dict[str, Any], kid: str) -> None:
    known = [str(key["kid"]) for key in document["keys"]]
    if kid not in known:
        raise click.ClickException(f"{kid} is not in the file; it has {', '.join(known)}")


def _seconds_left(path: Path, since: str | None, seconds: float) -> float:
    """Of a pause after a moment; where nobody noted that, after the file's last change, which is no earlier."""
    began = datetime.fromisoformat(since) if since else datetime.fromtimestamp(path.stat().st_mtime, UTC)
    return seconds - (clock.now() - began).total_seconds()
