"""Addresses, files and keys that the settings name.

Tested in ``tests/doctor/test_doctor.py``.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from exporter.auth.tokens import Authenticator
from exporter.core.errors import Misconfigured
from exporter.doctor.findings import Finding, Outcome
from exporter.settings.model import Address, Settings
from exporter.web import sockets
from exporter.web.toolkit.reload import WebConfig

LEAST_FREE = 1 << 30
"""Bytes that should be left for the database: a full disk stops every send."""


async def examine(settings: Settings) -> list[Finding]:
    """Where it listens, its folder, its keys, its web configuration."""
    if settings.systemd_socket:
        findings = [Finding("listen", Outcome.NONE, "on the sockets that systemd opens")]
    else:
        findings = [listen(address) for address in settings.listen]
    findings += [listen(address) for address in settings.metrics_listen]
    if not settings.database_url:
        findings.append(_folder(settings.data_dir))
    findings += [_keys(settings), _audience(settings)]
    if settings.web_config_file is not None:
        findings.append(_try("web config", lambda: WebConfig(settings.web_config_file).close(), "read and valid"))
    return findings


def listen(address: Address) -> Finding:
    """Can it be listened on?"""
    try:
        sockets.bind(address).close()
    except Misconfigured as error:
        if "in use" in str(error):
            text = f"{address} is in use: by a server that is running, or by another program"
            return Finding("listen", Outcome.WARNING, text, "nothing to do if this server is running already")
        return Finding("listen", Outcome.FAILED, str(error))
    if address.host in ("", "0.0.0.0", "::"):  # noqa: S104  # compared, not bound
        return Finding("listen", Outcome.OK, f"{address}: every interface of this machine")
    return Finding("listen", Outcome.OK, f"{address}")


def _folder(folder: Path) -> Finding:
    if not folder.exists():
        parent = next(path for path in folder.absolute().parents if path.exists())
        if os.access(parent, os.W_OK | os.X_OK):
            return Finding("data folder", Outcome.OK, f"{folder} will be made by the first start")
        return Finding("data folder", Outcome.FAILED, f"{folder} is not there, and {parent} cannot be written")
    if not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
        return Finding("data folder", Outcome.FAILED, f"{folder} cannot be written by this user ({os.geteuid()})")
    free = shutil.disk_usage(folder).free
    text = f"{folder}: {free / (1 << 30):.1f} GiB free"
    if free < LEAST_FREE:
        return Finding("data folder", Outcome.WARNING, text, "a full disk stops every send")
    return Finding("data folder", Outcome.OK, text)


def _keys(settings: Settings) -> Finding:
    secret = settings.effective_secret_file
    if settings.identity_provider_file is None and not secret.exists():
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


def _try(subject: str, work: Callable[[], object], text: str) -> Finding:
    try:
        work()
    except Misconfigured as error:
        return Finding(subject, Outcome.FAILED, str(error))
    return Finding(subject, Outcome.OK, text)
