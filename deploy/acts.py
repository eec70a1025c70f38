"""What an operator does by a command, in the audit trail."""

import getpass
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import click
from pymongo.errors import PyMongoError

from services.kernel import audit, auth, clock, mongo, settings
from services.kernel.auth import Actor

DONE, FAILED = "done", "failed"
UNWRITTEN: Final = "the audit trail cannot be written: `estation status` tells why"


def operator() -> Actor:
    """Who runs the command: by name, or by number where the system knows none."""
    try:
        name = getpass.getuser()
    except (KeyError, OSError):  # no row in passwd, as in some containers; KeyError until Python 3.12
        name = str(os.getuid())
    return auth.system(f"cli:{name}")


@contextmanager
def noted(action: str, **about: Any) -> Iterator[dict[str, Any]]:
    """Keeps an audit row of what is done in the block, also when it fails; what the block adds is kept too.

    Raises:
        ClickException: the database does not answer, so that no row could be kept: nothing has been done then, unless
            the message says so.
    """
    actor = operator()
    database = mongo.connect(settings.read(), audit.OPERATIONS, "cli")
    with database.client:
        try:
            database.command("ping")
        except PyMongoError:
            raise click.ClickException(UNWRITTEN) from None
        said, result = dict(about), FAILED
        try:
            yield said
            result = DONE
        finally:
            row = audit.row(actor, action, at=clock.now(), after={**said, "result": result})
            try:
                audit.keep(database["audit"], row)
            except PyMongoError:
                click.echo(f"{action} ({result}) left no audit row", err=True)
                raise click.ClickException(UNWRITTEN) from None
