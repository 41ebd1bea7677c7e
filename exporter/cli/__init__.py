"""The commands. Knows how people ask; what is asked for is imported when it is asked for, so that --help is fast.

Whatever cannot work says so in one line on stderr and exits with 1; a trace is a defect. Words that the
command line does not know exit with 2, as everywhere.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import NoReturn

import click

from exporter import __version__
from exporter.cli import checking, serving
from exporter.cli.flags import FAILED, USAGE, say
from exporter.cli.process import open_standard_streams
from exporter.core.errors import Misconfigured, Unavailable


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run a command and exit with its status."""
    open_standard_streams()
    try:
        status = cli.main(args=None if arguments is None else list(arguments), standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.ctx.get_help(), err=True)
        sys.exit(USAGE)
    except click.ClickException as error:
        say(error.format_message())
        sys.exit(USAGE if isinstance(error, click.UsageError) else FAILED)
    except (click.Abort, KeyboardInterrupt):
        sys.exit(130)
    except Misconfigured as error:
        say(str(error))
        sys.exit(FAILED)
    except Unavailable as error:
        say(f"{error.message}; try again")
        sys.exit(FAILED)
    except OSError as error:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - the interpreter flushes it at exit, and nobody reads
        if not isinstance(error, BrokenPipeError):  # a full disk behind stdout
            say((error.strerror or "no reason given").lower())
        sys.exit(FAILED)
    sys.exit(status if isinstance(status, int) else 0)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, "--version", prog_name="messaging-exporter", message="%(prog)s %(version)s")
def cli() -> None:
    """A WebSocket messaging server that can be seen: live gauges, exact totals, one Prometheus scrape.

    Every flag has an environment variable (in brackets); the flag wins, --config.file comes last.
    """


for _command in (
    serving.serve,
    serving.demo,
    serving.token,
    serving.migrate,
    serving.assets,
    checking.simulate,
    checking.verify,
):
    cli.add_command(_command)
