"""``serve``, ``demo``, ``token``, ``migrate`` and ``assets``. What they start is imported when it is asked for.

Tested in ``tests/test_cli.py``.
"""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import click

from exporter.cli.failures import print_error, print_misspelt
from exporter.cli.flags import ALL, RESOLVE, SHARED, Duration, ServerCommand, SettingsCommand, Url, flags
from exporter.cli.process import (
    configure_logs,
    make_data_folder,
    no_client_certificates,
    warn_of_another_server,
    warn_of_unread,
)
from exporter.core.errors import Misconfigured, os_reason
from exporter.event_loop import run
from exporter.settings.model import Settings


@click.command(cls=ServerCommand)
@flags(*ALL)
def serve(settings: Settings) -> int:
    """Run the server until SIGTERM or Ctrl-C."""
    if settings.workers > 1:
        return _supervise(settings)
    server = _server()
    configure_logs(settings)
    warn_of_unread(settings, ALL)
    make_data_folder(settings)
    warn_of_another_server(settings)
    run(server.serve(settings))
    return 0


def _server() -> ModuleType:
    import gc

    gc.disable()  # until the server is up: what modules are made of stays, and each look at it costs 15 to 30 ms
    with no_client_certificates():
        from exporter.web import server

    return server


def _supervise(settings: Settings) -> int:
    import asyncio

    from exporter.workers.supervisor import supervise

    configure_logs(settings)
    warn_of_unread(settings, ALL)
    read_again = click.get_current_context().meta[RESOLVE]
    return asyncio.run(supervise(settings, read_again))  # the standard loop: it has little to do, and is smaller


@click.command(hidden=True)
@click.argument("number", type=int)
@click.argument("descriptor", type=int)
def worker(number: int, descriptor: int) -> None:
    """One process of serve --workers, which starts it."""
    _server()
    from exporter.workers.worker import serve as work

    run(work(number, descriptor, lambda settings, number: configure_logs(settings, worker=number)))


@click.command(cls=SettingsCommand)
@flags(*SHARED)
@click.argument("user")
@click.option("--role", default="user", show_default=True, help="admin may see stats and the admin page")
@click.option("--ttl", type=Duration(), default="1h", show_default=True, metavar="DURATION", help="good for this long")
def token(settings: Settings, user: str, role: str, ttl: float) -> None:
    """Print a token for USER, signed with this installation's secret.

    A secret that is absent is made, and a role that the server does not ask for is signed: stderr says so.
    """
    from exporter.auth.tokens import ADMIN, ROLES, Authenticator, check_names
    from exporter.settings import secret_file

    print_misspelt()
    check_names(user, role)  # first: what is refused makes no secret, of which the next call would say nothing
    path = settings.effective_secret_file
    made = settings.identity_provider_file is None and secret_file.obtain(path)[1]
    signed = Authenticator.from_settings(settings).sign(user, role=role, ttl=ttl)
    if made:  # most often in the wrong folder, beside a server that has another
        print_error(f"made a new secret in {path.absolute()}: only a server started with it accepts this token")
    if role not in ROLES:  # not refused: other services may read the token, too
        print_error(f'no route asks for the role "{role}", only for "{ADMIN}": with this token one is a user')
    click.echo(signed)


@click.command(cls=SettingsCommand)
@flags(*SHARED)
def migrate(settings: Settings) -> None:
    """Create or upgrade the database."""
    from exporter.store import Store

    async def upgrade() -> None:
        store = Store(
            settings.effective_database_url, schema=settings.database_schema, timeout=settings.database_timeout
        )
        try:
            for line in await store.migrate():
                click.echo(f"not as it was made, and not needed: {line}")
        finally:
            await store.close()

    configure_logs(settings)
    make_data_folder(settings)
    run(upgrade())


class _DemoCommand(ServerCommand):
    """Invented people do not belong into the folder of a real server, which would show them as its first figures."""

    defaults = Settings(data_dir=Path("data/demo"))


@click.command(cls=_DemoCommand)
@flags(*ALL)
def demo(settings: Settings) -> int:
    """The server with a past and with people on it, to look at.

    It takes the flags of serve, and keeps its data apart: in data/demo, unless --data.dir is given.
    """
    from exporter.demo import main

    print_misspelt()
    make_data_folder(settings)
    return main(settings)


@click.command()
@click.option("--output", "output", required=True, metavar="DIR", type=click.Path(path_type=Path, file_okay=False))
@click.option(
    "--runbooks", type=Url(), metavar="URL", help="Where you publish DIR/runbooks: the alerts link to what is below it."
)
def assets(output: Path, runbooks: str | None) -> None:
    """Write dashboards, rules, runbooks and provisioning files.

    They come out of the installed package.
    """
    from exporter import assets as package

    try:
        package.write(output, package.RUNBOOKS if runbooks is None else runbooks)
    except OSError as error:
        raise Misconfigured(f"cannot write to {output}: {os_reason(error)}") from error
