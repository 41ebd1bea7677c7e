"""``verify`` and ``simulate``: commands whose exit status 1 is a finding.

Tested in ``tests/test_cli.py``.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from exporter.cli.failures import DIFFERENCES, print_error
from exporter.cli.flags import SHARED, CheckingCommand, Duration, Url, flags
from exporter.cli.process import configure_logs, progress
from exporter.core.errors import Misconfigured
from exporter.event_loop import run
from exporter.settings.model import Settings


@click.command(cls=CheckingCommand)
@flags(*SHARED)
@click.option("--repair", is_flag=True, help="repair what differs, while the server goes on")
def verify(settings: Settings, repair: bool) -> int:
    """Recount everything the slow way and print what differs.

    Exit status: 0 all agree or repaired, 1 differences (also where others hold what --repair needs), 2 could not check.
    """
    configure_logs(settings)
    return run(_verify(settings, repair))


async def _verify(settings: Settings, repair: bool) -> int:
    from exporter.store import Store
    from exporter.store.verify import verify

    store = Store(settings.effective_database_url, schema=settings.database_schema, timeout=settings.database_timeout)
    with progress("recounting") as moved:
        report = await verify(store, repair=repair, progress=moved, out=click.echo)
    if report.unkept:
        print_error(f"the server cannot publish what was found: {report.unkept}")
    counted = f"{_count(report.conversations, 'conversation')}, about {_count(report.messages, 'message')}"
    if report.agrees:
        click.echo(f"all figures agree: {counted}")
        return 0
    found = (
        f"{_count(report.inaccurate_conversations, 'conversation')}, {_count(report.inaccurate_days, 'day')} and "
        f"{_count(report.missing_triggers, 'trigger')} or other parts of the schema were wrong"
    )
    left = "; not all of it could be repaired" if repair else "; repair them with --repair"
    click.echo(f"{found}{', and are repaired' if report.repaired else left}: {counted}")
    return 0 if report.repaired else DIFFERENCES


def _count(number: int, thing: str) -> str:
    return f"{number:,} {thing}{'' if number == 1 else 's'}"


@click.command(cls=CheckingCommand)
@flags(*SHARED)
@click.option(
    "--url", "urls", multiple=True, type=Url(), metavar="URL", help="where the server is; several are taken in turn"
)
@click.option("--users", default=50, show_default=True, help="people")
@click.option("--conversations", default=20, show_default=True, help="conversations among them")
@click.option("--rate", default=10.0, show_default=True, help="messages per second of all together")
@click.option(
    "--duration", type=Duration(zero=True), default="60s", show_default=True, metavar="DURATION", help="0: for ever"
)
@click.option("--seed", default=1, show_default=True, help="the same seed makes the same people")
@click.option("--verify/--no-verify", default=True, help="compare with what is stored in the end")
@click.option("--json", is_flag=True, help="the summary as JSON")
@click.option("--ca-file", type=click.Path(path_type=Path), metavar="FILE", help="the CA of the server's certificate")
@click.option("--insecure", is_flag=True, help="take any certificate of the server")
@click.option(
    "--token-file", type=click.Path(path_type=Path), metavar="FILE", help="YAML, USER: TOKEN; instead of signing"
)
def simulate(settings: Settings, token_file: Path | None, **given: Any) -> int:
    """People on a running server, who check what it promises.

    They chat, type, read, come and go, and compare what they got with what was acknowledged.

    Exit status: 0 all promises kept, 1 one was broken, 2 could not check.
    """
    from exporter import simulate as people

    configure_logs(settings)
    if not given["urls"]:
        del given["urls"]
    given["duration"] = given["duration"] or None
    if token_file is not None:
        return people.main(people.SimulateOptions(**given, tokens=_tokens(token_file)))
    return people.main(people.SimulateOptions(**given, token_for=_signer(settings)))


def _signer(settings: Settings) -> Callable[[str], str]:
    """Signs with the server's secret, which must be there already: a new one would be of no use."""
    from exporter.auth.tokens import Authenticator

    if settings.identity_provider_file is None and not settings.effective_secret_file.exists():
        raise Misconfigured(
            f"there is no secret at {settings.effective_secret_file}: give the server's --data.dir, "
            "its --auth.secret-file, or tokens with --token-file"
        )
    authenticator = Authenticator.from_settings(settings)
    authenticator.sign("nobody")  # with a public key this says at once that it cannot be
    return authenticator.sign


def _tokens(path: Path) -> dict[str, str]:
    from exporter.settings import strict_yaml

    document = strict_yaml.load(path)
    if not isinstance(document, dict) or not all(isinstance(v, str) for kv in document.items() for v in kv):
        raise Misconfigured(f"{path}: expected lines of USER: TOKEN")
    return document
