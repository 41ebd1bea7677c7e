"""Which format and encoding a scraper gets, for whatever it says it wants; and how long the database may take."""

from __future__ import annotations

import asyncio
import gzip
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from exporter.metrics.exposition import encoded
from exporter.metrics.negotiation import MAX_READ, OPENMETRICS, SHARE, TEXT, budget, content_type, wants_gzip
from exporter.metrics.process import ProcessCollector

# What is really sent, by Prometheus 2.42, 2.53 and 3, VictoriaMetrics, a browser, curl and Python's client.
PROMETHEUS_2_42 = (
    "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,"
    "text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
)
PROMETHEUS_3 = (
    "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5,"
    "application/openmetrics-text;version=0.0.1;q=0.4,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.3,"
    "text/plain;version=0.0.4;q=0.2,*/*;q=0.1"
)
PROTOBUF_FIRST = (
    "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited;q=0.6," + PROMETHEUS_3
)
BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8"

OPEN = [
    PROMETHEUS_2_42,
    PROMETHEUS_3,
    PROTOBUF_FIRST,
    "application/openmetrics-text",
    "application/openmetrics-text; version=1.0.0",
    "application/openmetrics-text;version=0.0.1",
    'application/openmetrics-text; version="1.0.0"; charset=utf-8',
    "APPLICATION/OpenMetrics-Text; VERSION=1.0.0",
    "application/openmetrics-text;q=0.001",
    "application/openmetrics-text, text/plain;q=0.9",
    "text/plain;q=0.9,application/openmetrics-text;q=1.0",
    "application/openmetrics-text;q=0.5, text/plain;q=0",
    "application/openmetrics-text;q=0.5, text/plain;q=0.4, */*;q=1",  # the more specific range counts for text
    "application/openmetrics-text;q=0.5, text/*;q=0.4, */*;q=1",
    " , ,application/openmetrics-text,, ",
    "text/plain;version=9.9.9, application/openmetrics-text;q=0.1",  # a text version that we do not have
    "text/plain;q=banana,application/openmetrics-text;q=0.1",
    "application/openmetrics-text;q=0.5,application/openmetrics-text;version=0.0.1;q=0.1,text/plain;q=0.3",
]
PLAIN = [
    "",
    "*/*",
    "text/plain",
    "text/*",
    "text/plain; version=0.0.4",
    BROWSER,
    "application/json",
    "application/openmetrics-text;q=0",
    "application/openmetrics-text;q=0.5,*/*;q=0.8",
    "application/openmetrics-text;q=0.5,text/*;q=0.5",  # no preference: the simpler one
    "application/openmetrics-text;version=2.0.0",
    "application/openmetrics-text;VERSION=2.0.0",
    "application/openmetrics-text;Q=0.4,text/plain;q=0.5",
    "text/plain;q=0.9,application/openmetrics-text;q=0.5,text/plain;version=0.0.4;q=0.1",  # the best of them counts
    "application/openmetrics-text;q=2",
    "application/openmetrics-text;q=-1",
    "application/openmetrics-text;q=nan",
    "application/openmetrics-text;q=inf",
    "application/openmetrics-text;q=",
    "application/openmetrics-text;q=0x1",
    "*/*;q=-1",
    "application/openmetrics-textual",
    "openmetrics-text",
]
GARBAGE = [
    ";",
    ";;;;",
    ",",
    "=",
    "q=",
    ";q=1",
    "/",
    "*",
    "a/b/c;d=e=f;g",
    '"',
    'text/plain;x="',
    "text/plain;q=1;q=0.1;q=zzz",
    "\x00",
    "ÿþ",
    "text/plain" * 1_000,
    "," * 10_000,
    ";" * 10_000,
    "text/plain;q=" + "9" * 10_000,
    "text/plain;q=1e309",
    "text/plain;q=1e-400",
    "%s%n%x",
    "{}",
    "\ud800",
]


@pytest.mark.parametrize("accept", OPEN)
def test_openmetrics_is_sent_where_it_is_preferred(accept: str) -> None:
    assert content_type(accept) == OPENMETRICS


@pytest.mark.parametrize("accept", PLAIN)
def test_text_is_sent_where_openmetrics_is_not_preferred(accept: str) -> None:
    assert content_type(accept) == TEXT


@pytest.mark.parametrize("accept", GARBAGE, ids=[repr(accept[:20]) for accept in GARBAGE])
def test_garbage_gets_text(accept: str) -> None:
    assert content_type(accept) == TEXT
    assert wants_gzip(accept) in (True, False)


@given(st.text())
@example("application/openmetrics-text;version")
def test_no_header_whatsoever_raises(header: str) -> None:
    assert content_type(header) in (TEXT, OPENMETRICS)
    assert wants_gzip(header) in (True, False)
    assert 0 < budget(header, 5.0) <= 5.0


pieces = st.sampled_from(
    [
        "application/openmetrics-text",
        "text/plain",
        "text/*",
        "*/*",
        ";",
        ",",
        "q=",
        "0.5",
        "1",
        "version=",
        "1.0.0",
        " ",
    ]
)


@given(st.lists(pieces).map("".join))
def test_no_mixture_of_real_parts_raises(header: str) -> None:
    assert content_type(header) in (TEXT, OPENMETRICS)


def test_the_types_are_those_that_scrapers_look_for() -> None:
    assert TEXT.startswith("text/plain; version=0.0.4;")
    assert OPENMETRICS.startswith("application/openmetrics-text; version=1.0.0;")
    assert "charset=utf-8" in TEXT
    assert "charset=utf-8" in OPENMETRICS
    assert list(text_string_to_metric_families("")) == []


@pytest.mark.parametrize(
    ("header", "wanted"),
    [
        ("", False),
        ("gzip", True),
        ("GZIP", True),
        ("x-gzip", True),
        ("gzip;q=0", False),
        ("gzip;q=0.0", False),
        ("gzip;q=0.001", True),
        ("gzip, deflate, br", True),
        ("deflate", False),
        ("identity", False),
        ("*", True),
        ("*;q=0", False),
        ("gzip;q=0, *", False),
        ("identity;q=1, *;q=0", False),
        ("deflate, gzip;q=1.0, *;q=0.5", True),
        (" gzip ; q=0.5 ", True),
        ("gzip;q=banana", False),
        ("gzipped", False),
        (";", False),
    ],
)
def test_gzip_is_sent_where_it_is_acceptable(header: str, wanted: bool) -> None:
    assert wants_gzip(header) is wanted


def test_of_a_header_in_many_lines_no_more_is_read_than_one_line_holds() -> None:
    """A scrape may come from anybody, and all others wait while its headers are looked at."""
    some = "," * (MAX_READ - 100)
    assert content_type(some + PROMETHEUS_2_42[:46]) == OPENMETRICS
    assert wants_gzip(f"{some}gzip")
    assert content_type("," * MAX_READ + PROMETHEUS_2_42) == TEXT
    assert not wants_gzip("," * MAX_READ + "gzip")


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        (None, 5.0),
        ("10", 5.0),
        ("5", 5.0),
        ("2", 2.0),
        ("0.5", 0.5),
        ("1e0", 1.0),
        (" 2 ", 2.0),
        ("", 5.0),
        ("0", 5.0),
        ("-1", 5.0),
        ("nan", 5.0),
        ("inf", 5.0),
        ("-inf", 5.0),
        ("banana", 5.0),
        ("2s", 5.0),
        ("9" * 400, 5.0),
    ],
)
def test_the_database_gets_a_share_of_what_the_scraper_waits_and_never_more_than_its_own_time(
    header: str | None, seconds: float
) -> None:
    assert budget(header, 5.0) == pytest.approx(seconds * SHARE)


def test_the_answer_keeps_a_quarter_of_the_time_for_itself() -> None:
    assert 0.5 < SHARE <= 0.75


async def test_a_scrape_is_answered_plain_while_others_keep_all_threads() -> None:
    body, headers = await encoded(b"up 1\n", TEXT, "gzip")
    assert (gzip.decompress(body), headers["Content-Encoding"]) == (b"up 1\n", "gzip")
    given_back = threading.Event()
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))
    asyncio.get_running_loop().run_in_executor(None, given_back.wait)  # a kernel, a disk or a name service that hangs
    try:
        async with asyncio.timeout(20):
            body, headers = await encoded(b"up 1\n", TEXT, "gzip")
    finally:
        given_back.set()
    assert (body, headers.get("Content-Encoding")) == (b"up 1\n", None)


async def test_a_scrape_is_answered_where_no_thread_can_be_started() -> None:
    """Below a limit of tasks (pids.max, TasksMax=) submitting raises what it raises after the shutdown."""
    threads = ThreadPoolExecutor(1)
    threads.shutdown()
    asyncio.get_running_loop().set_default_executor(threads)
    body, headers = await encoded(b"up 1\n", TEXT, "gzip")
    assert (body, headers.get("Content-Encoding")) == (b"up 1\n", None)
    assert await ProcessCollector().collect_in_time() is None
