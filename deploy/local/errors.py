"""What can go wrong on one machine, said in one line."""

import click


class LauncherError(click.ClickException):
    """Ends a command with exit code 1 and one line: what is wrong, and how to mend it."""
