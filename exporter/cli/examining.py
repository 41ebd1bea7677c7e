"""``doctor``: a page about what ``serve`` would find.

Tested in ``tests/test_cli.py``.
"""

from __future__ import annotations

from pathlib import Path

import click

from exporter.cli.flags import ALL, SettingsCommand, Url, flags
from exporter.cli.process import configure_logs
from exporter.cli.version import line
from exporter.core.errors import Misconfigured
from exporter.event_loop import run
from exporter.settings.model import Settings


@click.command(cls=SettingsCommand)
@flags(*ALL)
@click.option(
    "--url", type=Url(), metavar="URL", help="what people type: examine what lies between them and the running server"
)
@click.option(
    "--token-file", type=click.Path(path_type=Path), metavar="FILE", help="an admin's token, where others sign them"
)
def doctor(settings: Settings, url: str | None, token_file: Path | None) -> int:
    """Examine settings, database, rights, clock, limits and broker.

    It takes the flags of serve, and changes nothing.

    Exit status: 0 nothing keeps the server from working, 1 something does, 2 something could not be examined.
    """
    import platform
    from dataclasses import replace

    from exporter import doctor as examination

    configure_logs(replace(settings, log_level="error"))  # the page says it
    token = None
    if token_file is not None:
        try:
            token = token_file.read_text(encoding="utf-8-sig").strip()  # Windows writes a mark before the text
        except (OSError, UnicodeDecodeError) as error:
            raise Misconfigured(f"cannot read the token file {token_file}") from error
        if not token:
            raise Misconfigured(f"the token file {token_file} is empty")
    findings = run(examination.examine(settings, url, token))
    click.echo(f"{line()}, Python {platform.python_version()}, {platform.system()} {platform.release()}\n")
    for text in examination.page(findings):
        click.echo(text)
    return examination.status(findings)
