"""What a command needs of its process: streams, logs, a folder, a line that moves.

Tested in ``tests/test_cli.py``.
"""

from __future__ import annotations

import contextlib
import io
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from exporter.core.errors import Misconfigured, os_reason
from exporter.ownership import taken_by_another
from exporter.settings.ineffective_variables import left_empty, misspelt
from exporter.settings.model import Settings
from exporter.settings.options import unread

_locks: list[int] = []  # descriptors that hold one while this process is there


def open_standard_streams() -> None:
    """Where a supervisor has closed stdin, stdout or stderr, /dev/null takes their place.

    Otherwise the first socket would get the number of one of them: logs would go to a peer, and libuv aborts. What
    stdout's encoding does not have (a folder's name that is not UTF-8, an ellipsis in Latin-1) is escaped, as on
    stderr.
    """
    for descriptor, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDONLY if descriptor == 0 else os.O_WRONLY)  # the lowest free number: this one
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(descriptor, "r" if descriptor == 0 else "w", closefd=False))
    if isinstance(sys.stdout, io.TextIOWrapper):  # whoever runs the command within a process may have put another there
        sys.stdout.reconfigure(errors="backslashreplace")


def end_when_told() -> None:
    """The first process of a container gets no signal that it has no handler for: SIGTERM ends this one as any other.

    A server's own handler takes its place. Until then it would be lost, and whoever stops the container waits in vain.
    So would every signal that the parent had blocked when it started this process, the end of a worker among them.
    """
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    if os.getpid() == 1:
        signal.signal(signal.SIGTERM, lambda number, frame: os._exit(128 + number))


@contextlib.contextmanager
def progress(words: str) -> Iterator[Callable[[int, int], None]]:
    """A line that moves, on a terminal only, and where rich is installed."""
    try:
        if not sys.stderr.isatty():
            raise ImportError
        from rich.console import Console
        from rich.progress import Progress
    except ImportError:
        yield lambda done, total: None
        return

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(words, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=max(total, done, 1))


def make_data_folder(settings: Settings) -> None:
    """The embedded database needs its folder; with a URL of one's own nothing is made."""
    if settings.database_url:
        return
    make_folder(settings.data_dir)


def make_folder(folder: Path) -> None:
    """Make a folder that only this user reads, unless it is there. Raises Misconfigured."""
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise Misconfigured(f"cannot make the folder {folder}: {os_reason(error)}") from error
    if (foreign := taken_by_another(folder)) is not None:
        raise Misconfigured(
            f"{foreign} was made by another user, where everybody may make one, and what is put there is his to read "
            "and to change: choose another --data.dir"
        )


def warn_of_another_server(settings: Settings) -> None:
    """Does another one use the same SQLite file, and one of the two has no broker? Then people miss messages.

    Each server tells the next by a lock that ends with its process, on an empty file beside the database; with a broker
    it may be shared. Not on the database: on macOS that would keep SQLite out. No other command takes it.
    """
    import fcntl

    import structlog

    from exporter.store.location import SqliteLocation, locate

    place = locate(settings.effective_database_url)
    if not isinstance(place, SqliteLocation):
        return
    how = fcntl.LOCK_SH if settings.redis_url else fcntl.LOCK_EX
    file = Path(os.path.realpath(place.path))  # as SQLite finds what lies beside a link's target
    try:
        _locks.append(os.open(file.with_name(f"{file.name}-server"), os.O_RDONLY | os.O_CREAT, 0o644))
        fcntl.flock(_locks[-1], how | fcntl.LOCK_NB)
    except BlockingIOError:
        structlog.get_logger(__name__).warning(
            "another server uses the same data, and people on one do not hear those on the other: give this one a "
            "--data.dir or --database.url of its own, or both --redis.url",
            file=str(place.path),
        )
    except OSError:
        return  # a file system without locks, a folder that is not there or not this user's: nothing is known


def configure_logs(settings: Settings, **every: object) -> None:
    """Logs as the settings say; ``every`` are fields of every line. The first lines: variables that set nothing."""
    import structlog

    from exporter import logs

    logs.configure(settings.log_level, settings.log_format, None, **every)
    for name, nearest in misspelt(os.environ).items():
        structlog.get_logger(__name__).warning(
            "a variable of the environment is not known, and changes nothing", variable=name, did_you_mean=nearest
        )
    if empty := left_empty(os.environ):
        structlog.get_logger(__name__).warning("variables that are empty count as not set", variables=empty)


def warn_of_unread(settings: Settings, names: Sequence[str]) -> None:
    """Say what was set and changes nothing for a server that reads the settings ``names``."""
    import structlog

    if found := unread(settings, names):
        structlog.get_logger(__name__).warning("settings that change nothing here", settings=found)


@contextlib.contextmanager
def no_client_certificates() -> Iterator[None]:
    """In this block aiohttp is imported without the system's certificates, which it reads twice: 30 ms and 2 MiB.

    They are for its client, and ``serve`` sends no request. A client all the same would trust nobody.
    """
    import ssl

    ssl.SSLContext.set_default_verify_paths = lambda context: None  # type: ignore[method-assign,assignment]  # hides it
    try:
        yield
    finally:
        del ssl.SSLContext.set_default_verify_paths  # the base class has the real one
