"""The log: one line per event, in two formats, that nobody can forge and that holds no secret."""

from __future__ import annotations

import ast
import asyncio
import errno
import io
import json
import logging
import re
import socket
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog
from hypothesis import example, given
from hypothesis import strategies as st

from exporter import logs
from exporter.core.redaction import MASK, mask
from exporter.settings.model import LOG_FORMATS
from tests.settings.test_options import URLS_WITH_PASSWORD
from tests.web.test_listeners import no_more_files

JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhbm4ifQ.c2lnbmF0dXJl"


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level, raising = root.handlers[:], root.level, logging.raiseExceptions
    yield
    root.handlers[:], logging.raiseExceptions = handlers, raising
    root.setLevel(level)
    logging.captureWarnings(False)
    structlog.reset_defaults()


def configured(format: str = "json", level: str = "info") -> tuple[structlog.BoundLogger, io.StringIO]:
    stream = io.StringIO()
    logs.configure(level, format, stream)
    return structlog.get_logger("test"), stream


def one(stream: io.StringIO) -> dict[str, object]:
    text = stream.getvalue()
    assert text.endswith("\n")
    assert text.count("\n") == 1
    return json.loads(text)


def test_a_line_of_json_has_time_level_event_and_what_was_given() -> None:
    log, stream = configured()
    log.info("listening", urls=["http://127.0.0.1:1"], connections=3, ratio=0.5, yes=True, nothing=None)
    line = one(stream)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+Z", str(line.pop("ts")))
    assert line == {
        "event": "listening",
        "level": "info",
        "urls": ["http://127.0.0.1:1"],
        "connections": 3,
        "ratio": 0.5,
        "yes": True,
        "nothing": None,
    }


def test_a_line_of_logfmt_begins_with_time_level_and_event() -> None:
    log, stream = configured("logfmt")
    log.warning("slow consumer", bytes=7, urls=["a", "b"])
    assert re.fullmatch(r'ts=\S+Z level=warning event="slow consumer" bytes=7 urls=a,b\n', stream.getvalue())


@pytest.mark.parametrize(("level", "expected"), [("debug", 4), ("info", 3), ("warn", 2), ("error", 1)])
def test_what_is_below_the_level_is_not_written(level: str, expected: int) -> None:
    log, stream = configured(level=level)
    for method in (log.debug, log.info, log.warning, log.error):
        method("x")
    assert stream.getvalue().count("\n") == expected


@pytest.mark.parametrize("format", LOG_FORMATS)
def test_an_exception_is_one_line(format: str) -> None:
    log, stream = configured(format)
    try:
        raise ValueError("a\nb")
    except ValueError as error:
        log.error("failed", exc_info=error)
    assert stream.getvalue().count("\n") == 1
    assert "Traceback" in stream.getvalue()


@pytest.mark.parametrize("format", LOG_FORMATS)
def test_the_libraries_write_the_same_kind_of_line(format: str) -> None:
    _, stream = configured(format)
    logging.getLogger("library").warning("it is %s", "so\nlevel=error")
    logging.getLogger("library").info("not interesting")
    assert stream.getvalue().count("\n") == 1
    assert "logger" in stream.getvalue()


def test_warnings_are_lines_too() -> None:
    _, stream = configured()
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(True)
        warnings.warn("deprecated", stacklevel=1)
    assert one(stream)["logger"] == "py.warnings"


@pytest.mark.parametrize("format", LOG_FORMATS)
@pytest.mark.parametrize("url", URLS_WITH_PASSWORD)
def test_a_password_in_a_url_is_masked_wherever_it_stands(url: str, format: str) -> None:
    log, stream = configured(format)
    log.info(f"event {url} end", value=url, error=ValueError(f"could not connect to {url}"), list=[url])
    try:
        raise OSError(url)
    except OSError as error:
        log.error("failed", exc_info=error)
    logging.getLogger("library").error("cannot open %s", url)
    assert "hunter2" not in stream.getvalue()
    assert "s3cr3t" not in stream.getvalue()


@pytest.mark.parametrize(
    "text",
    [JWT, f"Bearer {JWT}", "Authorization: Bearer abcdefghijk", "Basic YW5uOmh1bnRlcjI=", "password = 'hunter2x'"],
)
def test_a_token_or_a_password_is_masked(text: str) -> None:
    log, stream = configured()
    log.info("x", text=text)
    for part in (JWT, "abcdefghijk", "YW5uOmh1bnRlcjI", "hunter2x"):
        assert part not in stream.getvalue()


@pytest.mark.timeout(60)  # each would take minutes to days, were parts of it looked at again and again
@pytest.mark.parametrize("part", ["?%", "?&%", "://:", "-eyJ"])
def test_a_text_that_only_begins_like_secrets_takes_no_longer_than_others(part: str) -> None:
    """Whoever sends a request chooses the Origin that the log tells, and everybody waits for it."""
    text = part * (2_000_000 // len(part))
    assert len(mask(text)) == len(text)
    assert MASK in mask(f"{text} postgresql://ann:hunter2@host/?pass%77ord=hunter2 {JWT}")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("?a%b=c&d%e=f&g=h", f"?a%b={MASK}&d%e={MASK}&g=h"),
        ("?a=b?c%d=e", f"?a=b?c%d={MASK}"),
        ("?a%b=&c%d=e", f"?a%b=&c%d={MASK}"),
        ("?a%b c%d=e", "?a%b c%d=e"),
        ("x://a:b x://c:d@e", f"x://a:b x://c:{MASK}@e"),
        ("x://a:b@c@d", f"x://a:{MASK}@d"),
        ("eyJa eyJb.c eyJd.", f"eyJa {MASK} eyJd."),
        (f"a {JWT} b", f"a {MASK} b"),
        ("?secret=a&token=b&name=c", f"?secret={MASK}&token={MASK}&name=c"),
    ],
)
def test_what_is_passed_over_hides_no_secret_behind_it(text: str, shown: str) -> None:
    assert mask(text) == shown


def _texts(path: Path) -> Iterator[str]:
    """What a module may say: its texts without docstrings; what is filled in is a word."""
    tree = ast.parse(path.read_text())
    said = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            yield "".join(part.value if isinstance(part, ast.Constant) else "word" for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in said:
            yield node.value


def test_no_text_of_this_program_looks_like_a_secret_and_is_masked() -> None:
    package = Path(logs.__file__).parent
    texts = {text for path in package.rglob("*.py") for text in _texts(path) if text.count(" ") > 2}
    assert [text for text in texts if mask(text) != text] == []


@pytest.mark.parametrize("key", ["password", "auth_token", "Authorization", "cookie", "client_secret"])
def test_a_value_under_a_secret_name_is_masked(key: str) -> None:
    log, stream = configured()
    log.info("x", **{key: "plain", "user": "ann"})
    line = one(stream)
    assert line[key] == MASK
    assert line["user"] == "ann"


@pytest.mark.parametrize("format", LOG_FORMATS)
@given(text=st.text(max_size=50))
@example(text="\u202e\u2066turned round\u2069\u2028")
def test_no_text_can_write_a_second_line_or_move_the_cursor(format: str, text: str) -> None:
    log, stream = configured(format)
    log.info(text, value=text)
    line = stream.getvalue()
    assert line[-1] == "\n"
    assert not re.search("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]", line[:-1])


def test_a_very_long_value_is_shortened() -> None:
    log, stream = configured()
    log.info("x", value="y" * 10**6)
    assert len(stream.getvalue()) < 20_000


def test_a_log_that_cannot_be_written_takes_nothing_down() -> None:
    class Full(io.StringIO):
        def write(self, text: str) -> int:
            raise OSError(28, "No space left on device")

    logs.configure(stream=Full())
    structlog.get_logger().info("x")
    logging.getLogger("library").error("x")


def test_garbage_from_a_port_scan_writes_no_trace() -> None:
    from aiohttp.http_exceptions import BadStatusLine
    from aiohttp.web import RequestPayloadError

    _, stream = configured()
    for peers_affair in (BadStatusLine("\x16\x03"), RequestPayloadError("x"), ConnectionResetError("gone")):
        try:
            raise peers_affair
        except (BadStatusLine, RequestPayloadError, ConnectionResetError):
            logging.getLogger("aiohttp.server").exception("Error handling request")
    assert stream.getvalue() == ""
    try:
        raise ZeroDivisionError
    except ZeroDivisionError:
        logging.getLogger("aiohttp.server").exception("Error handling request")
    assert "ZeroDivisionError" in stream.getvalue()


async def test_where_no_file_may_be_opened_asyncio_writes_no_trace_of_each_attempt_to_accept() -> None:
    """Without uvloop that is one each second, beside the line of the server's own."""
    _, stream = configured()
    loop, tried, served = asyncio.get_running_loop(), asyncio.Event(), asyncio.Event()

    def failed(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        loop.default_exception_handler(context)
        tried.set()

    loop.set_exception_handler(failed)
    with socket.create_server(("127.0.0.1", 0)) as listening, socket.socket() as client:
        client.setblocking(False)
        server = await asyncio.start_server(lambda *_: served.set(), sock=listening, backlog=1)
        with no_more_files():
            await loop.sock_connect(client, listening.getsockname())
            await tried.wait()
        assert stream.getvalue() == ""
        loop.call_exception_handler({"message": "another", "exception": OSError(errno.EMFILE, "too many open files")})
        assert "another" in stream.getvalue()
        await served.wait()
        server.close()
