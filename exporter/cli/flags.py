"""Flags of the settings' table as click knows them, and the kinds of commands that take them. Knows no command.

Tested in ``tests/test_cli.py``.
"""

from __future__ import annotations

import functools
import os
import signal
from collections.abc import Callable
from typing import Any, Final, TypeVar

import click

from exporter.cli.failures import EXPECTED, UNCHECKED, print_reason
from exporter.settings import options, parsers
from exporter.settings.model import Settings

F = TypeVar("F", bound=Callable[..., Any])
RESOLVE: Final = "exporter.resolve"  # in a context's meta: a function that reads the settings again
SEEN: Final = "which every user of this machine could see in the process list"

_WEB_OF_OBSERVE: Final = ("web.listen-address", "web.telemetry-path", "web.config.file", "web.max-requests")
NAMES: Final = tuple(option.name for option in options.OPTIONS)
ALL: Final = options.OF_SERVE
SHARED: Final = tuple(n for n in ALL if n.startswith(("data.", "database.", "auth.", "log.")))
OBSERVE: Final = tuple(
    name
    for name in NAMES
    if name in _WEB_OF_OBSERVE
    or (name.startswith(("source.", "data.", "auth.", "log.")) and name != "auth.allowed-origins")
)


def _key(name: str) -> str:
    """What click calls the parameter of a setting."""
    return name.replace(".", "_").replace("-", "_")


_BY_KEY: Final = {_key(name): name for name in (options.CONFIG_FILE, *NAMES)}


def flags(*names: str) -> Callable[[F], F]:
    """The flags of the table, collected into the one parameter ``given``."""

    def decorate(command: F) -> F:
        for name in reversed((options.CONFIG_FILE, *names)):
            command = _flag(name)(command)
        return command

    return decorate


def _flag(name: str) -> Callable[[F], F]:
    key = _key(name)
    if name == options.CONFIG_FILE:
        text = f"YAML with these settings, dots nested; asked last. [{options.variable(name)}]"
        return click.option(f"--{name}", key, metavar="FILE", help=text)
    option = options.BY_NAME[name]
    text = f"{option.help} [{option.variable}]" + (f" (default: {option.default})" if option.default else "")
    if option.switch:
        return click.option(f"--{name}/--no-{name}", key, default=None, help=text)
    return click.option(f"--{name}", key, multiple=option.many, metavar=option.metavar, help=text)


class SettingsCommand(click.Command):
    """Hands over the settings that the table's flags, the environment and the file make."""

    defaults = Settings()

    def format_options(  # noqa: D102  # click documents it
        self, ctx: click.Context, formatter: click.HelpFormatter
    ) -> None:
        own: list[tuple[str, str]] = []  # first: below a page of settings nobody would find it
        settings: list[tuple[str, str]] = []
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx) if isinstance(parameter, click.Option) else None
            if record is not None:
                (settings if parameter.name in _BY_KEY else own).append(record)
        for title, records in (("Options", own), ("Settings", settings)):
            with formatter.section(title):
                formatter.write_dl(records)

    def invoke(self, ctx: click.Context) -> Any:  # noqa: D102  # click documents it
        given = {_BY_KEY[key]: ctx.params.pop(key) for key in list(ctx.params) if key in _BY_KEY}
        read = functools.partial(options.resolve, given, os.environ, self.defaults)
        ctx.meta[RESOLVE] = read
        ctx.params["settings"] = read()
        return super().invoke(ctx)


class ServerCommand(SettingsCommand):
    """A command that runs until it is stopped.

    SIGHUP means "read again" and SIGUSR2 "replace the workers": neither ends it, however early it comes.
    """

    def make_context(self, *args: Any, **kwargs: Any) -> click.Context:  # noqa: D102  # click documents it
        for number in (signal.SIGHUP, signal.SIGUSR2):
            signal.signal(number, signal.SIG_IGN)  # until the server's own handler takes its place
        return super().make_context(*args, **kwargs)


class CheckingCommand(SettingsCommand):
    """A command whose exit status 1 is a finding: whatever keeps it from looking is another."""

    attempt = "verify"

    def is_asked(self, ctx: click.Context) -> bool:
        """Is this call one that looks?"""
        return True

    def invoke(self, ctx: click.Context) -> Any:  # noqa: D102  # click documents it
        try:
            return super().invoke(ctx)
        except EXPECTED as error:
            if not self.is_asked(ctx) or not print_reason(error, f"could not {self.attempt}: "):
                raise
            return UNCHECKED


class Duration(click.ParamType[float]):
    """Seconds out of ``1h``; 0 where ``zero`` allows it."""

    name = "duration"

    def __init__(self, *, zero: bool = False) -> None:
        self._parse = parsers.duration if zero else parsers.positive_duration

    def convert(  # noqa: D102  # click documents it
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        if isinstance(value, float):
            return value
        try:
            return self._parse(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


class Url(click.ParamType[str]):
    """A URL that is no setting, as typed, without a password."""

    name = "url"

    def convert(  # noqa: D102  # click documents it
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> str:
        if parsers.holds_password(value):
            self.fail(f"it holds a password, {SEEN}; nothing here asks for one: leave it out", param, ctx)
        return str(value)
