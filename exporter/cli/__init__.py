"""The commands. Knows how people ask; what is asked for is imported when it is asked for, so that --help is fast.

Whatever cannot work says so in one line on stderr and exits with 1; a trace is a defect. Words that the
command line does not know exit with 2, as everywhere.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import NoReturn

import click

from exporter.cli import checking, examining, observing, serving
from exporter.cli.failures import EXPECTED, FAILED, USAGE, print_error, print_reason
from exporter.cli.flags import ALL, NAMES
from exporter.cli.process import end_when_told, open_standard_streams
from exporter.cli.version import line


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run a command and exit with its status."""
    end_when_told()
    open_standard_streams()
    try:
        given = None if arguments is None else list(arguments)
        status = cli.main(args=given, prog_name="messaging-exporter", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.ctx.get_help(), err=True)
        sys.exit(USAGE)
    except click.NoSuchOption as error:
        print_error(_of_another_command(error) or error.format_message())
        sys.exit(USAGE)
    except click.ClickException as error:
        print_error(error.format_message())
        sys.exit(USAGE if isinstance(error, click.UsageError) else FAILED)
    except (click.Abort, KeyboardInterrupt):
        sys.exit(130)
    except EXPECTED as error:
        if not print_reason(error):
            raise
        sys.exit(FAILED)
    sys.exit(status if isinstance(status, int) else 0)


def _of_another_command(error: click.NoSuchOption) -> str | None:
    """What to say of a setting that another command has: no other name is meant, so none is proposed."""
    name = error.option_name.removeprefix("--")
    name = name if name in NAMES else name.removeprefix("no-")
    if name not in NAMES or error.ctx is None:
        return None
    owner = "serve" if name in ALL else "observe"
    return f"--{name} is a setting of {owner}, not of {error.ctx.info_name}"


def _version(ctx: click.Context, param: click.Parameter, asked: bool) -> None:
    if asked:
        click.echo(line())
        ctx.exit()


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=_version, help="Show version and revision."
)
def cli() -> None:
    """A WebSocket messaging server that can be seen: live gauges, exact totals, one Prometheus scrape.

    Every flag has an environment variable (in brackets); the flag wins, --config.file comes last.
    """


for _command in (
    serving.serve,
    serving.worker,
    serving.demo,
    serving.token,
    serving.migrate,
    serving.assets,
    checking.simulate,
    checking.verify,
    examining.doctor,
    observing.observe,
):
    cli.add_command(_command)
