"""``estation rebuild``: the figures again, from the event log, while the system runs."""

import click

from services.kernel import mongo, settings


@click.command()
@click.option("--check", is_flag=True, help="Only compare; exit code 1 where a figure differs")
def rebuild(check: bool) -> None:
    """Recompute every roll-up from the event log, and mend what differs."""
    from services.metrics import rebuild as work

    database = mongo.connect(settings.read(), "metrics", "rebuild")
    report = work.check(database) if check else work.repair(database)
    click.echo(
        f"{report.events} events, {report.rollups} roll-ups, {len(report.differences)} differences, "
        f"{report.seconds:.1f} s"
    )
    for difference in report.differences[:50]:
        click.echo(f"  {difference}")
    if check and report.differences:
        raise SystemExit(1)
