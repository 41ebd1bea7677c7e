"""``docs/commands.md`` and ``docs/messaging-exporter.1``: every command and flag, as the command line knows them."""

from __future__ import annotations

import re
from collections.abc import Iterator

import click

from docs.source.text import wrapped
from exporter import __version__
from exporter.cli import cli
from exporter.settings.options import BY_NAME, CONFIG_FILE

HEAD = """\
# Commands

This page is made from the command line itself, by `make docs`. `messaging-exporter COMMAND --help` says the same, and
so does the manual page [messaging-exporter.1](messaging-exporter.1), which is installed with the program: `man
messaging-exporter`. Settings are explained in [flags.md](flags.md).

Whatever cannot work says so in one line on standard error and exits with 1. Words that the command line does not know
exit with 2. Ctrl-C ends `serve`, `observe`, `demo` and `simulate` in order; any other command exits with 130.

## Completion

The shell completes commands and flags; for bash, zsh and fish:

```console
$ _MESSAGING_EXPORTER_COMPLETE=bash_source messaging-exporter > messaging-exporter.bash
$ _MESSAGING_EXPORTER_COMPLETE=zsh_source messaging-exporter > _messaging-exporter
$ _MESSAGING_EXPORTER_COMPLETE=fish_source messaging-exporter > messaging-exporter.fish
```
"""


def commands() -> Iterator[tuple[str, click.Command]]:
    """Every command by its name, in the order of the alphabet."""
    yield from ((name, command) for name, command in sorted(cli.commands.items()) if not command.hidden)


def options(command: click.Command) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """Flag (with what stands for its value) and text: of a command's own options, and of settings."""
    context = click.Context(command, info_name=command.name)
    own, settings = [], []
    for parameter in command.get_params(context):
        if not isinstance(parameter, click.Option):
            continue  # the usage line has the arguments; click 8.5 lists them without a word about them
        record = parameter.get_help_record(context)
        if record is not None:
            name = parameter.opts[0].removeprefix("--")
            kind = settings if name in BY_NAME or name == CONFIG_FILE else own
            kind.append((record[0], re.sub(r"\s+", " ", record[1])))
    return own, settings


def _usage(command: click.Command) -> str:
    pieces = command.collect_usage_pieces(click.Context(command, info_name=command.name))
    return " ".join(["messaging-exporter", str(command.name), *pieces])


def _paragraphs(command: click.Command) -> list[str]:
    return [re.sub(r"\s+", " ", part).strip() for part in (command.help or "").split("\n\n")]


def text() -> str:
    """The Markdown document."""
    parts = [HEAD]
    for name, command in commands():
        parts.append(f"## `{name}`\n\n`{_usage(command)}`\n")
        parts += [wrapped(paragraph) + "\n" for paragraph in _paragraphs(command)]
        own, settings = options(command)
        if settings:
            parts.append(wrapped("Settings: " + ", ".join(f"`{flag.split()[0]}`" for flag, _ in settings) + ".") + "\n")
        parts.append("\n".join(_item(flag, words) for flag, words in own) + "\n")
    return "\n".join(parts)


def _item(flag: str, words: str) -> str:
    return f"* `{flag}`\n{wrapped(words, '  ')}"


def manual() -> str:
    """The manual page, in man(7)."""
    lines = [
        f'.TH MESSAGING-EXPORTER 1 "" "messaging-exporter {__version__}" "User Commands"',
        ".SH NAME",
        "messaging\\-exporter \\- a WebSocket messaging server that can be seen",
        ".SH SYNOPSIS",
        ".B messaging\\-exporter",
        "COMMAND [OPTIONS]",
        ".SH DESCRIPTION",
        *(_roff(paragraph) + "\n.PP" for paragraph in _paragraphs(cli)),
        ".SH COMMANDS",
    ]
    for _, command in commands():
        lines += [f".SS {_roff(_usage(command))}", *(_roff(paragraph) + "\n.PP" for paragraph in _paragraphs(command))]
        own, settings = options(command)
        for flag, words in (*own, *settings):
            lines += [".TP", f".B {_roff(flag)}", _roff(words)]
    lines += [
        ".SH EXIT STATUS",
        "0 success; 1 something cannot work, or a check found something; 2 unknown words, or a check that could not be"
        " made; 130 interrupted by Ctrl-C, which ends serve, observe, demo and simulate in order.",
        ".SH FILES",
        ".TP",
        ".I data/auth.secret",
        "signs and verifies tokens; for its owner only.",
        ".TP",
        ".I data/messaging.db",
        "messages, where no other database is given.",
    ]
    return "\n".join(lines) + "\n"


def _roff(text: str) -> str:
    """Text whose dashes stay dashes and whose first character is no request."""
    escaped = text.replace("\\", "\\e").replace("-", "\\-")
    return "\\&" + escaped if escaped.startswith((".", "'")) else escaped
