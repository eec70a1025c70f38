"""``estation audit``: whether the trail of who did what is still what it was, its heads, an export for outsiders."""

import importlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import click
from pymongo.database import Database

from deploy import audit_verify
from deploy.run import PUBLISHERS
from services.kernel import audit_verifier, mongo, sealer, settings
from services.kernel.audit import OPERATED, OPERATIONS, Source
from services.kernel.mongo import Document

NAMES: Final = (*PUBLISHERS, OPERATIONS)


@click.group()
def audit() -> None:
    """The chain of audit rows."""


@audit.command()
def head() -> None:
    """The head of every chain, a JSON line each: what to keep outside the house."""
    for name, database, _sources in _chains(NAMES):
        found = sealer.head(name, database)
        if found is not None:
            click.echo(json.dumps(found))


@audit.command()
@click.argument("names", nargs=-1, type=click.Choice(NAMES))
@click.option("--head", "outside", help="N:HASH, or a file of heads that left the house (of one service)")
def verify(names: tuple[str, ...], outside: str | None) -> None:
    """Compare chain and documents of NAMES (default: all); exit code 1 where they do not agree."""
    if outside is not None and len(names) != 1:
        raise click.UsageError("--head belongs to one service: name it")
    if outside is not None and ":" not in outside and not Path(outside).is_file():
        raise click.UsageError(f"--head {outside}: neither N:HASH nor a file")
    problems = 0
    for name, database, sources in _chains(names or NAMES):
        report = audit_verify.verify(name, database, sources, audit_verifier.heads(outside) if outside else ())
        for finding in report.findings:
            click.echo(f"{name}: {finding}")
        if report.problems > len(report.findings):
            click.echo(f"{name}: and {report.problems - len(report.findings)} more")
        click.echo(
            f"{name}: {report.rows} rows in {report.links} links, {report.waiting} not yet sealed, "
            f"{report.problems} problems, {report.rows / max(report.seconds, 0.001):.0f} rows/s, head {report.head}"
        )
        problems += report.problems
    raise SystemExit(1 if problems else 0)


@audit.command()
@click.argument("names", nargs=-1, type=click.Choice(NAMES))
@click.option("--to", "folder", required=True, type=click.Path(file_okay=False, path_type=Path))
def export(names: tuple[str, ...], folder: Path) -> None:
    """Write chain, rows and a verifier that needs nothing of ours into a folder for each of NAMES (default: all)."""
    for name, database, sources in _chains(names or NAMES):
        try:
            links, rows = audit_verify.export(database, sources, folder / name)
        except audit_verify.UnreadableError as error:
            raise click.ClickException(f"{name}: {error}") from error
        click.echo(f"{folder / name}: {rows} rows in {links} links; check: python3 audit_verifier.py .")


def _chains(names: tuple[str, ...]) -> Iterator[tuple[str, Database[Document], tuple[Source, ...]]]:
    known = settings.read()
    for name in names:
        database = mongo.connect(known, name, "audit")
        with database.client:
            yield name, database, OPERATED if name == OPERATIONS else _audited(name)


def _audited(name: str) -> tuple[Source, ...]:
    sources: tuple[Source, ...] = importlib.import_module(f"services.{name}.store").AUDITED
    return sources
