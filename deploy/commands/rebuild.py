"""``estation rebuild``: the figures again, from the event log, while the system runs."""

import click

from services.kernel import mongo, settings
from services.metrics.rebuild import RebuildError, check, mend

SHOWN = 50


@click.command()
@click.option("--check", "only_check", is_flag=True, help="Only compare; exit code 1 where a figure differs")
def rebuild(*, only_check: bool) -> None:
    """Recompute every figure from the event log, and mend what differs."""
    database = mongo.connect(settings.read(), "metrics", "rebuild")
    report = check(database)
    click.echo(
        f"{report.events} of {report.n} events, {report.rollups} roll-ups, {report.totals} totals, "
        f"{len(report.differences)} differences, {report.seconds:.1f} s"
    )
    for difference in report.differences[:SHOWN]:
        click.echo(f"  {difference}")
    if only_check:
        raise SystemExit(0 if report.agrees else 1)
    try:
        mend(database, report)
    except RebuildError as error:
        raise click.ClickException(str(error)) from error
    if report.differences:
        click.echo("mended")
