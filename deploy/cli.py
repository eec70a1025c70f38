"""``estation``: every command that runs or operates the system."""

import os

import click

from deploy.commands.appoint import appoint
from deploy.commands.audit import audit
from deploy.commands.backup import backup
from deploy.commands.device import device
from deploy.commands.dlq import dlq
from deploy.commands.erasures import erasures
from deploy.commands.keys import keys
from deploy.commands.migrate import migrate
from deploy.commands.rebuild import rebuild
from deploy.commands.seed import seed
from deploy.commands.simulate import simulate
from deploy.commands.token import token
from deploy.local import commands, system

LAUNCHER = {command.name: command for command in commands.COMMANDS}


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.pass_context
def main(context: click.Context) -> None:
    """Run and operate E-Station (泰安e站)."""
    if context.invoked_subcommand not in LAUNCHER:
        # the launcher itself must still see which addresses were given from outside
        system.fill(os.environ)


for command in (
    *LAUNCHER.values(),
    migrate,
    seed,
    simulate,
    token,
    device,
    dlq,
    rebuild,
    audit,
    appoint,
    keys,
    erasures,
    backup,
):
    main.add_command(command)

if __name__ == "__main__":
    main()
