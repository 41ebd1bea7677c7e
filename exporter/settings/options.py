"""Where settings come from: a flag, else the environment, else the YAML file, else the default.

What there is to set is in ``table``. Knows no click, no server and no store.
"""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from exporter.core.errors import Misconfigured
from exporter.core.redaction import mask, printable
from exporter.settings import parsers, source_list, strict_yaml
from exporter.settings.model import Address, Limits, Settings
from exporter.settings.table import BY_NAME, DEFAULTS, OPTIONS, PREFIX, Option, variable

CONFIG_FILE: Final = "config.file"
SOURCES: Final = "sources"
OF_SERVE: Final = tuple(option.name for option in OPTIONS if not option.name.startswith("source."))
_FILE_VARIABLE: Final = variable(CONFIG_FILE)
_ADDRESSES: Final = "(--web.listen-address, --web.metrics-listen-address)"

__all__ = ["BY_NAME", "CONFIG_FILE", "OPTIONS", "PREFIX", "Option", "environment", "resolve", "variable"]

Given = str | bool | Sequence[str]


@dataclass(slots=True)
class _Reading:
    """What has been read so far; the first source to name a setting wins."""

    found: dict[str, Any] = field(default_factory=dict)

    def take(self, option: Option, texts: Sequence[str], where: str) -> None:
        if option.name in self.found:
            return
        if not texts:  # a comma alone, an empty list: else a server would listen nowhere, or take tokens for anybody
            raise Misconfigured(f"{where}: has no value")
        parsed = tuple(_parse(option, text.strip(), where) for text in texts)
        self.found[option.name] = parsed if option.many else parsed[-1]


def resolve(flags: Mapping[str, Given | None], environ: Mapping[str, str], defaults: Settings = DEFAULTS) -> Settings:
    """The settings out of all sources; raises Misconfigured. ``flags`` is keyed by dotted names; None: not given."""
    reading = _Reading()
    for name, given in flags.items():
        if name != CONFIG_FILE and given is not None and given != ():
            _take_flag(reading, BY_NAME[name], given)
    for option in OPTIONS:
        text = environ.get(option.variable, "")
        if text.strip():  # an empty variable is one that a compose file left open
            texts = [part for part in text.split(",") if part.strip()] if option.many else [text]
            reading.take(option, texts, option.variable)
    file, where = flags.get(CONFIG_FILE), f"--{CONFIG_FILE}"
    if file is None:
        file, where = environ.get(_FILE_VARIABLE, "").strip() or None, _FILE_VARIABLE
    if file is not None:
        _take_file(reading, _file(str(file).strip(), where))
    return _settings(reading.found, defaults)


def _file(text: str, where: str) -> Path:
    try:
        return parsers.path(text)
    except ValueError as error:
        raise Misconfigured(f"{where}: {error}") from error


def environment(settings: Settings) -> dict[str, str]:
    """The variables that make another process resolve to ``settings``. They may hold secrets.

    Raises Misconfigured for a value that cannot be told so.
    """
    variables = {}
    for option in OPTIONS:
        if option.name.startswith("source."):  # of observe, which starts no other process
            continue
        value = _value(settings, option)
        if value not in (None, "", ()):
            texts = [_text(one) for one in (value if option.many else (value,))]
            if option.many and any("," in text for text in texts):
                raise Misconfigured(
                    f"--{option.name} has a comma, at which a process that this one starts would take it for two"
                )
            variables[option.variable] = ",".join(texts)
    return variables


def unread(settings: Settings, names: Container[str]) -> list[str]:
    """Settings that differ from their defaults and change nothing: others take their place, or must be given, too.

    Or they are not among ``names``, which are those that the command reads.
    """
    given = [option.name for option in OPTIONS if _value(settings, option) != _value(DEFAULTS, option)]
    idle = ["web.listen-address"] if settings.systemd_socket else []
    idle += [] if settings.redis_url or settings.workers > 1 else ["cluster.name", "cluster.lease"]
    found = [name for name in given if name not in names or name in idle]
    return found + [SOURCES] * (bool(settings.sources) and "source.url" not in names)


def require_broker(settings: Settings) -> None:
    """Is a password given, and nobody to be told it? Raises Misconfigured."""
    if settings.redis_password_file is not None and not settings.redis_url:
        raise Misconfigured("--redis.password-file is for --redis.url, which is not given")


def _value(settings: Settings, option: Option) -> Any:
    value: Any = settings
    for name in option.field.split("."):
        value = getattr(value, name)
    return value


def _text(value: Any) -> str:
    match value:
        case bool():
            return str(value).lower()
        case float():
            return f"{value:f}s"
    return str(value)


def _take_flag(reading: _Reading, option: Option, given: Given) -> None:
    texts = [str(given).lower()] if isinstance(given, bool) else [given] if isinstance(given, str) else list(given)
    if option.secret and any(parsers.holds_password(text) for text in texts):
        raise Misconfigured(
            f"--{option.name} holds a password, which every user of this machine could see in the process list: "
            f"give it as {option.variable} in the environment, or in the file of --{CONFIG_FILE}"
        )
    reading.take(option, texts, f"--{option.name}")


def _take_file(reading: _Reading, path: Path) -> None:
    document = strict_yaml.load(path)
    if isinstance(document, dict) and SOURCES in document:
        where = f"{SOURCES} in {path}{strict_yaml.key_line(document, SOURCES)}"
        reading.found[SOURCES] = source_list.read(document.pop(SOURCES), where)
    for name, value in _flat(document, path).items():
        option = BY_NAME.get(name)
        if option is None:
            raise Misconfigured(f"{path}: {_unknown(name)}{strict_yaml.line_of(name)}")
        where = f"{name} in {path}{strict_yaml.line_of(name)}"
        reading.take(option, _texts(option, value, where), where)


def _is_section(name: str) -> bool:
    return any(known.startswith(f"{name}.") for known in BY_NAME)


def _unknown(name: str) -> str:
    if _is_section(name):
        return f"expected a mapping of settings under {_shown(name)}"
    return f"there is no setting called {_shown(name)}"


def _texts(option: Option, value: Any, where: str) -> list[str]:
    """A YAML value as the text that the parsers read."""
    items = value if isinstance(value, list) else [value]
    if isinstance(value, list) and not option.many:
        raise Misconfigured(f"{where}: expected one value, not a list")
    texts = []
    for item in items:
        if item is None or isinstance(item, dict | list) or (isinstance(item, bool) and not option.switch):
            expected = "true or false" if option.switch else "text or a number"
            quotes = "; text that looks like true or false stands in quotes" if isinstance(item, bool) else ""
            raise Misconfigured(f"{where}: expected {expected}{quotes}")
        texts.append(str(item))
    return texts


def _flat(document: Any, path: Path, prefix: str = "", depth: int = 0) -> dict[str, Any]:
    """``{web: {listen-address: x}}`` as ``{web.listen-address: x}``."""
    if document is None:
        return {}
    if not isinstance(document, dict) or depth > 8:
        under = f" under {_shown(prefix[:-1])}{strict_yaml.line_of(prefix)}" if prefix else ""
        raise Misconfigured(f"{path}: expected a mapping of settings{under}")
    flat: dict[str, Any] = {}
    for key, value in document.items():
        name = strict_yaml.Key.at(f"{prefix}{key}", key.line)
        if value is None and name not in BY_NAME and _is_section(name):  # all that stood in it is a comment
            continue
        nested = isinstance(value, dict) and name not in BY_NAME
        below = strict_yaml.Key.at(f"{name}.", key.line)
        for inner, leaf in (_flat(value, path, below, depth + 1) if nested else {name: value}).items():
            if inner in flat:
                raise Misconfigured(f"{path}: {_shown(inner)} stands twice{strict_yaml.line_of(inner)}")
            flat[inner] = leaf
    return flat


def _parse(option: Option, text: str, where: str) -> Any:
    if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"":  # docker run --env-file hands them on
        raise Misconfigured(f"{where}: leave out the quotes around the value: here they are part of it")
    try:
        return option.parse(text)
    except ValueError as error:
        shown = "" if option.secret else f", not {_shown(text)}"
        several = "; of several, give each by itself: the flag once more, or a list in YAML" if "," in text else ""
        raise Misconfigured(f"{where}: {error}{shown}{several if option.many else ''}") from error


def _shown(text: str) -> str:
    """Somebody's text inside an error of one line: short, printable, without what looks like a secret."""
    safe = printable(mask(text)).replace("\n", "\\n")
    return f'"{safe if len(safe) <= 80 else safe[:80] + "…"}"'


def _settings(found: Mapping[str, Any], defaults: Settings) -> Settings:
    top, limits = {}, {}
    sources = found.get(SOURCES, ())
    for name, value in found.items():
        if name == SOURCES:
            continue
        target, _, limit = BY_NAME[name].field.partition(".")
        if limit:
            limits[limit] = value
        else:
            top[target] = value
    settings = replace(defaults, limits=Limits(**limits), sources=sources, **top)
    _check(settings)
    return settings


def _check(settings: Settings) -> None:
    """What no single value can know."""
    listen = () if settings.systemd_socket else settings.listen
    fixed = [address for address in (*listen, *settings.metrics_listen) if address.port]
    for address in fixed:
        if fixed.count(address) > 1:
            raise Misconfigured(f"the address {address} is given twice {_ADDRESSES}")
        if address.host and Address("", address.port) in fixed:
            raise Misconfigured(f":{address.port} is all interfaces, and {address} among them {_ADDRESSES}")
    files = (settings.auth_secret_file, settings.auth_public_key_file, settings.auth_jwks_file)
    if sum(file is not None for file in files) > 1:
        raise Misconfigured("--auth.secret-file, --auth.public-key-file and --auth.jwks-file exclude each other")
