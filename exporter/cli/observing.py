"""``observe``: an exporter for the database of another messaging server.

Tested in ``tests/test_cli.py``.
"""

from __future__ import annotations

import click

from exporter.cli.flags import OBSERVE, CheckingCommand, ServerCommand, flags
from exporter.cli.process import configure_logs, make_folder, no_client_certificates, warn_of_unread
from exporter.event_loop import run
from exporter.settings.model import Settings


class _Observe(CheckingCommand, ServerCommand):
    """With ``--check``, what keeps it from looking is another exit status than what it finds."""

    attempt = "check"

    def is_asked(self, ctx: click.Context) -> bool:
        return bool(ctx.params["check"])


@click.command(cls=_Observe)
@flags(*OBSERVE)
@click.option("--check", is_flag=True, help="say what would be read and what is missing, count once, and end")
def observe(settings: Settings, check: bool) -> int:
    """Totals of another messaging server, read from its database.

    It only reads there, and does no harm.

    Exit status of --check: 0 all is well, 1 something is missing or wrong, 2 could not check.
    """
    configure_logs(settings)
    warn_of_unread(settings, OBSERVE)
    if check:
        from exporter.observe.check import check_all
        from exporter.web.source_server import sources_of

        return run(check_all(sources_of(settings), out=click.echo))
    with no_client_certificates():
        from exporter.web import source_server

    source_server.sources_of(settings)
    make_folder(settings.data_dir)
    run(source_server.observe(settings))
    return 0
