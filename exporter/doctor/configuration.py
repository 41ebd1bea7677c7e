"""Addresses, files and keys that the settings name.

Tested in ``tests/doctor/test_doctor.py``.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from exporter.auth.tokens import Authenticator
from exporter.core.errors import Misconfigured, missing_extra
from exporter.doctor import certificate
from exporter.doctor.findings import Finding, Outcome
from exporter.settings.ineffective_variables import left_empty, misspelt
from exporter.settings.model import Address, Settings
from exporter.settings.options import OF_SERVE, unread
from exporter.store.location import SqliteLocation, free_bytes, locate
from exporter.web import sockets
from exporter.web.toolkit.reload import WebConfig

LEAST_FREE = 1 << 30
"""Bytes that should be left for the database: a full disk stops every send."""
NO_ROOM = 16 << 20
"""Bytes below which a disk counts as full: SQLite's journal alone takes 4 MiB between two checkpoints, several times
that while somebody reads, and what is left of a full disk is seldom exactly nothing."""


async def examine(settings: Settings) -> list[Finding]:
    """Where it listens, its folder, its keys, its environment, its web configuration."""
    if settings.systemd_socket:
        findings = [Finding("listen", Outcome.NONE, "on the sockets that systemd opens")]
    else:
        findings = [listen(address) for address in settings.listen]
    findings += [listen(address, sockets.METRICS_LISTEN) for address in settings.metrics_listen]
    findings += _data(settings)
    findings += [_keys(settings), _audience(settings), *_environment()]
    if idle := unread(settings, OF_SERVE):
        findings.append(Finding("settings", Outcome.WARNING, f"{', '.join(idle)}: nothing changes by it"))
    if settings.web_config_file is not None:
        findings.append(_try("web config", lambda: WebConfig(settings.web_config_file).close(), "read and valid"))
        findings += certificate.examine(settings.web_config_file)
    return findings


def listen(address: Address, flag: str = sockets.LISTEN) -> Finding:
    """Can it be listened on? ``flag`` is what chooses another."""
    try:
        sockets.bind(address, flag).close()
    except Misconfigured as error:
        if "in use" in str(error):
            text = f"{address} is in use: by a server that is running, or by another program"
            advice = f"nothing to do if this server is running already; else {flag} HOST:PORT chooses another port"
            return Finding("listen", Outcome.WARNING, text, advice)
        return Finding("listen", Outcome.FAILED, str(error))
    if address.host in ("", "0.0.0.0", "::"):  # noqa: S104  # compared, not bound
        return Finding("listen", Outcome.OK, f"{address}: every interface of this machine")
    return Finding("listen", Outcome.OK, f"{address}")


def _data(settings: Settings) -> list[Finding]:
    """Of the embedded database, or of an SQLite file: its folder. A server looks after its own disk."""
    if not settings.database_url:
        return [_folder("data folder", settings.data_dir)]
    try:
        place = locate(settings.database_url)
    except Misconfigured:
        return []  # said where the database is examined
    if not isinstance(place, SqliteLocation) or not place.path.parent.is_dir():
        return []
    return [_folder("data folder", place.path.parent)]


def _folder(subject: str, folder: Path) -> Finding:
    """May this user write there, and is there room? One that is absent is made by the first start."""
    if there := os.path.exists(folder):  # Path's raises where this user may not look
        place = folder
        if not folder.is_dir():
            return Finding(subject, Outcome.FAILED, f"{folder} is not a folder")
        if not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
            return Finding(subject, Outcome.FAILED, f"{folder} cannot be written by this user ({os.geteuid()})")
    else:
        place = next(path for path in folder.absolute().parents if os.path.exists(path))
        if not os.access(place, os.W_OK | os.X_OK):
            return Finding(subject, Outcome.FAILED, f"{folder} is not there, and {place} cannot be written")
    free, disk = free_bytes(place), os.statvfs(place)
    text = f"{folder}: {_size(free)} free" + ("" if there else "; it will be made by the first start")
    if free < NO_ROOM:
        return Finding(subject, Outcome.FAILED, text, "the disk is full: nothing can be stored")
    if disk.f_files and not disk.f_favail:  # Btrfs and others without a table of files say 0 of 0
        text = f"{folder}: no file can be made though {_size(free)} are free"
        return Finding(subject, Outcome.FAILED, text, "the file system is out of inodes: remove files")
    if free < LEAST_FREE:
        return Finding(subject, Outcome.WARNING, text, "a full disk stops every send")
    return Finding(subject, Outcome.OK, text if there else f"{folder} will be made by the first start")


def _size(size: int) -> str:
    return f"{size / (1 << 30):.1f} GiB" if size >= 1 << 30 else f"{size / (1 << 20):.1f} MiB"


def _keys(settings: Settings) -> Finding:
    secret = settings.effective_secret_file
    if settings.identity_provider_file is None and not os.path.exists(secret):
        place = _folder("keys", secret.parent)  # seldom another than the data folder, and needed with any database
        if place.outcome is Outcome.FAILED:
            return Finding("keys", Outcome.FAILED, f"{secret} cannot be made: {place.text}", place.advice)
        return Finding("keys", Outcome.OK, f"{secret} will be made by the first start")
    where = settings.identity_provider_file or secret
    return _try("keys", lambda: Authenticator.from_settings(settings), f"{where} is fit for use")


def _audience(settings: Settings) -> Finding:
    expected = [*settings.auth_audiences, *settings.auth_issuers]
    if expected:
        return Finding("tokens", Outcome.OK, f"must name {', '.join(expected)}")
    if settings.identity_provider_file is None:
        return Finding("tokens", Outcome.OK, "of whoever has the secret")
    text = "of every application of the identity provider are accepted: the audience (aud) is not asked for"
    return Finding("tokens", Outcome.WARNING, text, "set --auth.audience to what it writes into tokens for this one")


def _environment() -> list[Finding]:
    """Variables that set nothing; no line where there is none."""
    advice = "the file of --config.file counts, or else the default"
    return [
        Finding("environment", Outcome.WARNING, f"{name} is empty, and counts as not set", advice)
        for name in left_empty(os.environ)
    ] + [
        Finding("environment", Outcome.WARNING, f"{name} is not known, and changes nothing", f"did you mean {nearest}?")
        for name, nearest in misspelt(os.environ).items()
    ]


def _try(subject: str, work: Callable[[], object], text: str) -> Finding:
    try:
        work()
    except Misconfigured as error:
        return Finding(subject, Outcome.FAILED, str(error))
    except ModuleNotFoundError as error:
        said = missing_extra(error)
        if said is None:
            raise
        return Finding(subject, Outcome.FAILED, said)
    return Finding(subject, Outcome.OK, text)
