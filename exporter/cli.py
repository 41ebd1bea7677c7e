"""The commands. Knows how people ask; what is asked for is imported when it is asked for, so that --help is fast.

Whatever cannot work says so in one line on stderr and exits with 1; a trace is a defect. Words that the
command line does not know exit with 2, as everywhere.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import Callable, Coroutine, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, NoReturn, TypeVar

import click

from exporter import __version__
from exporter.core.errors import Misconfigured, Unavailable
from exporter.core.redaction import mask, printable
from exporter.settings import options, parsers
from exporter.settings.model import Settings

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])
FAILED: Final = 1
USAGE: Final = 2
DIFFERENCES: Final = 1  # of verify
UNCHECKED: Final = 2  # of verify and simulate

_ALL: Final = tuple(option.name for option in options.OPTIONS)
_SHARED: Final = tuple(n for n in _ALL if n.startswith(("data.", "database.", "auth.", "log.")))


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run a command and exit with its status."""
    _open_standard_streams()
    try:
        status = cli.main(args=None if arguments is None else list(arguments), standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.ctx.get_help(), err=True)
        sys.exit(USAGE)
    except click.ClickException as error:
        _say(error.format_message())
        sys.exit(USAGE if isinstance(error, click.UsageError) else FAILED)
    except (click.Abort, KeyboardInterrupt):
        sys.exit(130)
    except Misconfigured as error:
        _say(str(error))
        sys.exit(FAILED)
    except Unavailable as error:
        _say(f"{error.message}; try again")
        sys.exit(FAILED)
    except OSError as error:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - the interpreter flushes it at exit, and nobody reads
        if not isinstance(error, BrokenPipeError):  # a full disk behind stdout
            _say((error.strerror or "no reason given").lower())
        sys.exit(FAILED)
    sys.exit(status if isinstance(status, int) else 0)


def _open_standard_streams() -> None:
    """Where a supervisor has closed stdin, stdout or stderr, /dev/null takes their place.

    Otherwise the first socket would get the number of one of them: logs would go to a peer, and libuv aborts.
    """
    for descriptor, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDONLY if descriptor == 0 else os.O_WRONLY)  # the lowest free number: this one
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(descriptor, "r" if descriptor == 0 else "w", closefd=False))


def _say(message: str) -> None:
    """One line on stderr, whatever is in it."""
    line = " ".join(printable(mask(message)).split())
    with contextlib.suppress(OSError):
        click.echo(f"messaging-exporter: {line}", err=True)


def _settings(given: dict[str, Any]) -> Settings:
    return options.resolve(given, os.environ)


def _flags(*names: str) -> Callable[[F], F]:
    """The flags of the table, collected into the one parameter ``given``."""

    def decorate(command: F) -> F:
        for name in reversed((options.CONFIG_FILE, *names)):
            command = _flag(name)(command)
        return command

    return decorate


def _flag(name: str) -> Callable[[F], F]:
    key = name.replace(".", "_").replace("-", "_")
    if name == options.CONFIG_FILE:
        text = f"YAML with these settings, dots nested; asked last. [{options.variable(name)}]"
        return click.option(f"--{name}", key, metavar="FILE", help=text)
    option = options.BY_NAME[name]
    text = f"{option.help} [{option.variable}]" + (f" (default: {option.default})" if option.default else "")
    if option.switch:
        return click.option(f"--{name}/--no-{name}", key, default=None, help=text)
    return click.option(f"--{name}", key, multiple=option.many, metavar=option.metavar, help=text)


class _Command(click.Command):
    """Hands over the table's flags by their dotted names, as one dictionary ``given``."""

    def invoke(self, ctx: click.Context) -> Any:
        names = {name.replace(".", "_").replace("-", "_"): name for name in (options.CONFIG_FILE, *_ALL)}
        given = {names[key]: ctx.params.pop(key) for key in list(ctx.params) if key in names}
        ctx.params["settings"] = _settings(given)
        return super().invoke(ctx)


class _Checking(_Command):
    """A command whose exit status 1 is a finding: what keeps it from looking is another."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (Misconfigured, Unavailable) as error:
            _say(f"could not verify: {error}")
            return UNCHECKED


class _Duration(click.ParamType[float]):
    """Seconds out of ``1h``; 0 where ``zero`` allows it."""

    name = "duration"

    def __init__(self, *, zero: bool = False) -> None:
        self._parse = parsers.duration if zero else parsers.positive_duration

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if isinstance(value, float):
            return value
        try:
            return self._parse(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, "--version", prog_name="messaging-exporter", message="%(prog)s %(version)s")
def cli() -> None:
    """A WebSocket messaging server that can be seen: live gauges, exact totals, one Prometheus scrape.

    Every flag has an environment variable (in brackets); the flag wins, --config.file comes last.
    """


@cli.command(cls=_Command)
@_flags(*_ALL)
def serve(settings: Settings) -> None:
    """Run the server until SIGTERM or Ctrl-C."""
    from exporter.web import server

    _configure_logs(settings)
    _make_data_folder(settings)
    _run(server.serve(settings))


@cli.command(cls=_Command)
@_flags(*_SHARED)
@click.argument("user")
@click.option("--role", default="user", show_default=True, help="admin may see stats and the admin page")
@click.option("--ttl", type=_Duration(), default="1h", show_default=True, metavar="DURATION", help="good for this long")
def token(settings: Settings, user: str, role: str, ttl: float) -> None:
    """Print a token for USER, signed with this installation's secret."""
    from exporter.auth.tokens import Authenticator

    click.echo(Authenticator.from_settings(settings).sign(user, role=role, ttl=ttl))


@cli.command(cls=_Command)
@_flags(*_SHARED)
def migrate(settings: Settings) -> None:
    """Create or upgrade the database."""
    from exporter.store import Store

    async def upgrade() -> None:
        store = Store(settings.effective_database_url, timeout=settings.database_timeout)
        try:
            await store.migrate()
        finally:
            await store.close()

    _configure_logs(settings)
    _make_data_folder(settings)
    _run(upgrade())


@cli.command(cls=_Checking)
@_flags(*_SHARED)
@click.option("--repair", is_flag=True, help="mend what differs, while the server goes on")
def verify(settings: Settings, repair: bool) -> int:
    """Recount everything the slow way and print what differs.

    Exit status: 0 all agree or repaired, 1 differences, 2 could not check.
    """
    _configure_logs(settings)
    return _run(_verify(settings, repair))


async def _verify(settings: Settings, repair: bool) -> int:
    from exporter.store import Store
    from exporter.store.verify import verify

    store = Store(settings.effective_database_url, timeout=settings.database_timeout)
    with _progress("recounting") as progress:
        report = await verify(store, repair=repair, progress=progress, out=click.echo)
    counted = f"{report.conversations:,} conversations, about {report.messages:,} messages"
    if report.agrees:
        click.echo(f"all figures agree: {counted}")
        return 0
    found = (
        f"{report.inaccurate_conversations} conversations, {report.inaccurate_days} days and "
        f"{report.missing_triggers} triggers were wrong"
    )
    click.echo(f"{found}{', and are repaired' if report.repaired else '; mend them with --repair'}: {counted}")
    return 0 if report.repaired else DIFFERENCES


@contextlib.contextmanager
def _progress(words: str) -> Iterator[Callable[[int, int], None]]:
    """A line that moves, on a terminal only."""
    if not sys.stderr.isatty():
        yield lambda done, total: None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(words, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=max(total, done, 1))


@cli.command(cls=_Command)
@_flags(*_SHARED)
@click.option("--url", "urls", multiple=True, metavar="URL", help="where the server is; several are taken in turn")
@click.option("--users", default=50, show_default=True, help="people")
@click.option("--conversations", default=20, show_default=True, help="conversations among them")
@click.option("--rate", default=10.0, show_default=True, help="messages per second of all together")
@click.option(
    "--duration", type=_Duration(zero=True), default="60s", show_default=True, metavar="DURATION", help="0: for ever"
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
    """People on a running server: they chat, type, read, come and go, and check what they were promised.

    Exit status: 0 all promises kept, 1 something acknowledged was lost, 2 could not check.
    """
    from exporter import simulate as people

    _configure_logs(settings)
    if not given["urls"]:
        del given["urls"]
    given["duration"] = given["duration"] or None
    if token_file is not None:
        return people.main(people.SimulateOptions(**given, tokens=_tokens(token_file)))
    return people.main(people.SimulateOptions(**given, token_for=_signer(settings)))


def _signer(settings: Settings) -> Callable[[str], str]:
    """Signs with the server's secret, which must be there already: a new one would be of no use."""
    from exporter.auth.tokens import Authenticator

    if settings.auth_public_key_file is None and not settings.effective_secret_file.exists():
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


@cli.command(cls=_Command)
@_flags(*_ALL)
def demo(settings: Settings) -> int:
    """The server with a past and with people on it, to look at; takes the flags of serve."""
    from exporter.demo import main as run

    _make_data_folder(settings)
    return run(settings)


@cli.command()
@click.option("--output", "output", required=True, metavar="DIR", type=click.Path(path_type=Path, file_okay=False))
@click.option("--runbooks", metavar="URL", help="Where you publish DIR/runbooks: the alerts link to what is below it.")
def assets(output: Path, runbooks: str | None) -> None:
    """Write dashboards, rules, runbooks and provisioning out of the installed package."""
    from exporter import assets as package

    try:
        package.write(output, package.RUNBOOKS if runbooks is None else runbooks)
    except OSError as error:
        raise Misconfigured(f"cannot write to {output}: {(error.strerror or 'no reason given').lower()}") from error


def _make_data_folder(settings: Settings) -> None:
    """The embedded database needs its folder; with a URL of one's own nothing is made."""
    if settings.database_url:
        return
    try:
        settings.data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        reason = (error.strerror or "no reason given").lower()
        raise Misconfigured(f"cannot make the folder {settings.data_dir}: {reason}") from error


def _configure_logs(settings: Settings) -> None:
    from exporter import logs

    logs.configure(settings.log_level, settings.log_format)


def _run(work: Coroutine[Any, Any, T]) -> T:
    """Run on uvloop where it is installed: two to three times the messages per second of the standard loop."""
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        return runner.run(work)


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop
