"""The wire: every frame of the contract is read and written as it says, and every other is refused with its code."""

from __future__ import annotations

import contextlib
import json
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from exporter.core import errors, protocol
from exporter.core.errors import BadFrame, ErrorCode, TooLarge
from exporter.core.events import Command, Join, Leave, Ping, Read, Send, Typing
from exporter.core.protocol import CloseCode, Malformed, parse
from exporter.core.records import Message
from exporter.core.websocket_frames import count_beginning, text_frame

# --- what is accepted -------------------------------------------------------------------------------------

GOOD: list[tuple[dict[str, Any], Command]] = [
    ({"type": "join", "conversation": "c"}, Join("c")),
    ({"type": "join", "conversation": "c", "id": "1"}, Join("c", "1")),
    ({"type": "join", "conversation": "c", "id": None}, Join("c")),
    ({"type": "leave", "conversation": "c"}, Leave("c")),
    ({"type": "leave", "conversation": "c", "id": "1"}, Leave("c", "1")),
    ({"type": "typing", "conversation": "c", "active": True}, Typing("c", True)),
    ({"type": "typing", "conversation": "c", "active": False}, Typing("c", False)),
    ({"type": "send", "conversation": "c", "body": "hello", "id": "1"}, Send("c", "hello", "1")),
    ({"type": "send", "conversation": "c", "body": "", "id": "1"}, Send("c", "", "1")),
    ({"type": "read", "conversation": "c", "seq": 7}, Read("c", 7)),
    ({"type": "read", "conversation": "c", "seq": 2**63 - 1}, Read("c", 2**63 - 1)),
    ({"type": "ping"}, Ping()),
    ({"type": "ping", "id": "1"}, Ping("1")),
]


def encoded(value: object) -> bytes:
    return json.dumps(value).encode()


def refused(payload: bytes) -> Malformed:
    with pytest.raises(Malformed) as caught:
        parse(payload)
    return caught.value


def outcome(payload: bytes) -> Command | Malformed:
    try:
        return parse(payload)
    except Malformed as malformed:
        return malformed


@pytest.mark.parametrize(("frame", "command"), GOOD, ids=[json.dumps(frame) for frame, _ in GOOD])
def test_each_command_of_the_contract_is_read(frame: dict[str, Any], command: Command) -> None:
    assert parse(encoded(frame)) == command


@pytest.mark.parametrize(("frame", "command"), GOOD, ids=[json.dumps(frame) for frame, _ in GOOD])
def test_the_order_of_fields_white_space_and_fields_of_a_newer_client_do_not_matter(
    frame: dict[str, Any], command: Command
) -> None:
    newer = {"v2": [{"deep": None}], **dict(reversed(frame.items())), "later": 1.5}
    assert parse(json.dumps(newer, indent=3).encode() + b" \n\t\r") == command


def test_escapes_and_other_scripts_are_read_as_what_they_mean() -> None:
    payload = rb'{"ty\u0070e": "s\u0065nd", "conversation": "\u00e9\u4e2d", "body": "\ud83d\ude00", "id": "a\/b"}'
    assert parse(payload) == Send("é中", "😀", "a/b")


def test_a_command_is_named_as_on_the_wire() -> None:
    assert sorted(protocol.COMMANDS.values()) == ["join", "leave", "ping", "read", "send", "typing"]
    assert {type(command) for _, command in GOOD} == set(protocol.COMMANDS)
    for frame, command in GOOD:
        assert protocol.COMMANDS[type(command)] == frame["type"]


# --- identifiers ------------------------------------------------------------------------------------------

IDENTIFIED = [
    ({"type": "join", "conversation": "c", "id": "1"}, "conversation", 128),
    ({"type": "join", "conversation": "c", "id": "1"}, "id", 64),
    ({"type": "leave", "conversation": "c", "id": "1"}, "conversation", 128),
    ({"type": "leave", "conversation": "c", "id": "1"}, "id", 64),
    ({"type": "typing", "conversation": "c", "active": True}, "conversation", 128),
    ({"type": "send", "conversation": "c", "body": "b", "id": "1"}, "conversation", 128),
    ({"type": "send", "conversation": "c", "body": "b", "id": "1"}, "id", 64),
    ({"type": "read", "conversation": "c", "seq": 1}, "conversation", 128),
    ({"type": "ping", "id": "1"}, "id", 64),
]
identified = pytest.mark.parametrize(
    ("frame", "field", "limit"), IDENTIFIED, ids=[f"{f['type']}.{field}" for f, field, _ in IDENTIFIED]
)


@identified
def test_an_identifier_may_have_1_character_and_the_most_allowed(frame: dict[str, Any], field: str, limit: int) -> None:
    for length in (1, limit - 1, limit):
        for character in ("x", "é", "😀", " ", "\u2028", "{", '"', "\\"):
            command = parse(encoded({**frame, field: character * length}))
            assert getattr(command, field) == character * length


@identified
@pytest.mark.parametrize("character", ["x", "😀"])
def test_one_character_more_is_too_large(frame: dict[str, Any], field: str, limit: int, character: str) -> None:
    malformed = refused(encoded({**frame, field: character * (limit + 1)}))
    assert malformed.refusal.code is ErrorCode.TOO_LARGE
    assert malformed.refusal.message == f"{field} is longer than {limit} characters"
    assert malformed.command == frame["type"]
    assert malformed.id == (None if field == "id" else frame.get("id"))


@identified
def test_an_empty_identifier_is_a_bad_frame(frame: dict[str, Any], field: str, limit: int) -> None:
    malformed = refused(encoded({**frame, field: ""}))
    assert (malformed.refusal.code, malformed.refusal.message) == (ErrorCode.BAD_FRAME, f"{field} is empty")


CONTROLS = [*map(chr, range(0x20)), "\x7f", *map(chr, range(0x80, 0xA0))]


@identified
def test_a_control_character_in_an_identifier_is_a_bad_frame(frame: dict[str, Any], field: str, limit: int) -> None:
    for control in CONTROLS:
        for value in (control, f"a{control}", f"{control}b", f"a{control}b"):
            malformed = refused(encoded({**frame, field: value}))
            assert malformed.refusal.code is ErrorCode.BAD_FRAME, repr(value)
            assert malformed.command == frame["type"]
            assert malformed.id == (None if field == "id" else frame.get("id"))


@identified
@pytest.mark.parametrize("surrogate", [r"\ud800", r"\udbff", r"\udc00", r"\udfff", r"\udc00\ud800", r"\ud800A"])
def test_a_lone_surrogate_in_an_identifier_is_a_bad_frame(
    frame: dict[str, Any], field: str, limit: int, surrogate: str
) -> None:
    malformed = refused(encoded({**frame, field: "@"}).replace(b"@", surrogate.encode()))
    assert malformed.refusal.code is ErrorCode.BAD_FRAME
    assert malformed.command == frame["type"]
    assert malformed.id == (None if field == "id" else frame.get("id"))


@given(st.text(st.characters(exclude_categories=()), max_size=140))
@example("\x00")
@example("\xad")  # a format character (soft hyphen), which is no control character
@example("x" * 129)
def test_an_identifier_is_refused_exactly_for_its_length_and_its_characters(text: str) -> None:
    bad = any(ord(c) < 0x20 or 0x7F <= ord(c) < 0xA0 or 0xD800 <= ord(c) < 0xE000 for c in text)
    expected = TooLarge if len(text) > 128 else BadFrame if bad or not text else None
    if expected is None:
        protocol.check_identifier(text, "name")
        return
    with pytest.raises(expected) as caught:
        protocol.check_identifier(text, "name")
    assert type(caught.value) is expected
    assert caught.value.message.startswith("name ")


# --- everything else that is refused ----------------------------------------------------------------------

NOT_JSON = [
    b"",
    b" ",
    b"hello",
    b"{",
    b"}",
    b'{"type": "ping"',
    b"{'type': 'ping'}",
    b'{"type": "ping",}',
    b'{"type": "ping"} {}',
    b'{"type": "ping"}x',
    b'{type: "ping"}',
    b'\xef\xbb\xbf{"type": "ping"}',
    b'\x00{"type": "ping"}',
    b'{"type": "ping"}\x00',
    b'{"type": "ping", "id": "\x01"}',
    b'{"type": "ping", "id": "\xff"}',
    b'{"type": "ping", "id": "\xed\xa0\x80"}',
    b'{"type": "ping", "id": "\xc0\x80"}',
    b"\xff\xfe{\x00}\x00",
    b"[" * 60_000,
    b'{"type": "ping", "x": ' + b'{"x": ' * 9_000,
    # Beyond what Python 3.14 takes, too: it measures the stack that is left, where earlier ones count the depth.
    b'{"type": "ping", "x": ' + b"[" * 3_000_000 + b"]" * 3_000_000 + b"}",
]


def test_a_field_nested_as_deep_as_a_frame_allows_is_read_or_refused_and_nothing_worse() -> None:
    payload = b'{"type": "ping", "x": ' + b"[" * 30_000 + b"]" * 30_000 + b"}"
    with contextlib.suppress(Malformed):
        assert parse(payload) == Ping()  # unknown fields are passed over


@pytest.mark.parametrize("payload", NOT_JSON, ids=[repr(payload[:40]) for payload in NOT_JSON])
def test_what_is_not_json_is_a_bad_frame_of_an_unknown_command(payload: bytes) -> None:
    malformed = refused(payload)
    assert malformed.refusal.code is ErrorCode.BAD_FRAME
    assert malformed.command == "unknown"
    assert malformed.id is None


@pytest.mark.parametrize("payload", [b"null", b"true", b"1", b"1e999", b'"ping"', b"[]", b'[{"type": "ping"}]'])
def test_json_that_is_no_object_is_a_bad_frame(payload: bytes) -> None:
    malformed = refused(payload)
    assert (malformed.refusal.code, malformed.command, malformed.id) == (ErrorCode.BAD_FRAME, "unknown", None)


@pytest.mark.parametrize("type", [None, 5, True, [], {}, ["ping"]])
def test_a_type_that_is_no_string_is_a_bad_frame_with_the_id(type: object) -> None:
    malformed = refused(encoded({"type": type, "id": "1"}))
    assert (malformed.refusal.code, malformed.command, malformed.id) == (ErrorCode.BAD_FRAME, "unknown", "1")
    assert refused(b'{"id": "1"}').refusal.code is ErrorCode.BAD_FRAME


@pytest.mark.parametrize("name", ["", "JOIN", "join ", "unknown", "error", "welcome", "ack", "message", "Ping", "\x00"])
def test_a_command_that_does_not_exist_is_an_unknown_type_with_the_id(name: str) -> None:
    malformed = refused(encoded({"type": name, "conversation": "c", "id": "1"}))
    assert (malformed.refusal.code, malformed.command, malformed.id) == (ErrorCode.UNKNOWN_TYPE, "unknown", "1")


REQUIRED = {
    "join": {"conversation": "c"},
    "leave": {"conversation": "c"},
    "typing": {"conversation": "c", "active": True},
    "send": {"conversation": "c", "body": "b", "id": "1"},
    "read": {"conversation": "c", "seq": 1},
}
FIELDS = [(name, field) for name, fields in REQUIRED.items() for field in fields]
WRONG: dict[str, list[object]] = {
    "conversation": [None, 1, 1.5, True, [], {}, ["c"]],
    "id": [1, 1.5, True, [], {}],
    "body": [None, 1, True, [], {}],
    "active": [None, 0, 1, "true", "", [], {}],
    "seq": [None, "1", 1.5, True, [], {}, -1, -(2**63), 1e300],
}


@pytest.mark.parametrize(("name", "field"), FIELDS)
def test_a_command_without_a_field_that_it_needs_is_a_bad_frame(name: str, field: str) -> None:
    frame = {"type": name, **REQUIRED[name]}
    del frame[field]
    malformed = refused(encoded(frame))
    assert (malformed.refusal.code, malformed.command) == (ErrorCode.BAD_FRAME, name)
    assert field in malformed.refusal.message


@pytest.mark.parametrize(
    ("name", "field", "value"),
    [(name, field, value) for name, field in FIELDS for value in WRONG[field]],
)
def test_a_field_of_the_wrong_form_is_a_bad_frame_that_names_it(name: str, field: str, value: object) -> None:
    malformed = refused(encoded({"type": name, **REQUIRED[name], field: value}))
    assert (malformed.refusal.code, malformed.command) == (ErrorCode.BAD_FRAME, name)
    assert field in malformed.refusal.message


@pytest.mark.parametrize("name", ["join", "leave", "ping"])
@pytest.mark.parametrize("id", WRONG["id"])
def test_an_optional_id_of_the_wrong_form_is_a_bad_frame_too(name: str, id: object) -> None:
    malformed = refused(encoded({"type": name, "conversation": "c", "id": id}))
    assert (malformed.refusal.code, malformed.command, malformed.id) == (ErrorCode.BAD_FRAME, name, None)


@pytest.mark.parametrize("number", ["1" * 5_000, "-" + "9" * 20_000, "1e400", "-1e400", "1e99999999999", "1" * 60_000])
def test_a_number_without_bounds_is_a_bad_frame_and_costs_nothing_else(number: str) -> None:
    malformed = refused(f'{{"type": "read", "conversation": "c", "seq": {number}, "id": "1"}}'.encode())
    assert (malformed.refusal.code, malformed.command, malformed.id) == (ErrorCode.BAD_FRAME, "read", "1")


@pytest.mark.parametrize("seq", [2**63, 2**64, 10**30, 10**4_000])
def test_however_high_a_seq_is_it_is_for_the_store_to_say_that_it_is_not_there(seq: int) -> None:
    assert parse(encoded({"type": "read", "conversation": "c", "seq": seq})) == Read("c", seq)


def test_a_number_that_python_cannot_read_is_no_matter_in_a_field_that_nobody_reads() -> None:
    assert parse(b'{"type": "ping", "x": ' + b"1" * 60_000 + b"}") == Ping()


@pytest.mark.parametrize("constant", ["NaN", "Infinity", "-Infinity", "nan", "undefined", "01", "+1", ".5", "0x10"])
def test_numbers_that_json_does_not_have_are_a_bad_frame(constant: str) -> None:
    malformed = refused(f'{{"type": "read", "conversation": "c", "seq": {constant}}}'.encode())
    assert malformed.refusal.code is ErrorCode.BAD_FRAME


def test_a_nul_in_a_body_is_a_bad_frame_because_a_database_cannot_hold_it() -> None:
    malformed = refused(encoded({"type": "send", "conversation": "c", "body": "a\x00b", "id": "1"}))
    assert (malformed.refusal.code, malformed.command, malformed.id) == (ErrorCode.BAD_FRAME, "send", "1")


@pytest.mark.parametrize("surrogate", [r"\ud800", r"\udfff", r"\udc00\ud800", r"\ud800A", r"a\ud83d"])
def test_a_lone_surrogate_in_a_body_is_a_bad_frame_that_answers_the_id(surrogate: str) -> None:
    payload = f'{{"type": "send", "conversation": "c", "body": "{surrogate}", "id": "1"}}'.encode()
    malformed = refused(payload)
    assert (malformed.refusal.code, malformed.command, malformed.id) == (ErrorCode.BAD_FRAME, "send", "1")


@pytest.mark.parametrize("body", ["\x01\t\n\x7f\x85", "\u2028", "\ufeff", "\U0010ffff", '"\\/', "x" * 65_000])
def test_a_body_may_hold_anything_else(body: str) -> None:
    assert parse(encoded({"type": "send", "conversation": "c", "body": body, "id": "1"})) == Send("c", body, "1")


@pytest.mark.parametrize("part", [b"1,", b"[", b'{"a":', b'"\\n",'])
def test_a_frame_of_very_many_parts_that_is_no_command_is_not_read_again(
    part: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(json, "loads", None)
    payload = b'{"type":"read","id":"1","conversation":"c","seq":"x","more":[' + part * (protocol.MAX_PARTS + 1)
    with pytest.raises(Malformed) as caught:
        parse(payload)
    assert (caught.value.command, caught.value.id) == ("unknown", None)
    assert caught.value.refusal.code is ErrorCode.BAD_FRAME


@pytest.mark.parametrize(
    ("start", "command", "id"),
    [
        (b'{"type":"read","id":"1","conversation":"c","seq":"x"', "read", "1"),
        (b'{"type":"dance","id":"1"', "unknown", "1"),
        (b'{"type":["read"],"id":"1"', "unknown", "1"),
        (b'{"type":"read","id":[1]', "read", None),
        (b'{"id":"1"', "unknown", "1"),
    ],
)
def test_of_a_frame_of_very_many_parts_command_and_id_are_told_all_the_same(
    start: bytes, command: str, id: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(json, "loads", None)
    with pytest.raises(Malformed) as caught:
        parse(start + b',"more":[' + b"1," * protocol.MAX_PARTS + b"1]}")
    assert (caught.value.command, caught.value.id) == (command, id)


def test_a_type_that_is_given_twice_is_a_bad_frame_and_echoes_neither() -> None:
    malformed = refused(b'{"type": "secret", "type": "ping", "id": "1"}')
    assert (malformed.refusal.code, malformed.refusal.message) == (ErrorCode.BAD_FRAME, "type is given twice")


INVALID_IDS = ["", "x" * 65, "x" * 60_000, "\x00", "a\nb", "\x85", 5, 1.5, True, None, ["1"], {"1": 1}]


@pytest.mark.parametrize("id", INVALID_IDS, ids=[repr(id)[:20] for id in INVALID_IDS])
@pytest.mark.parametrize("rest", [{"type": "send"}, {"type": "nonsense"}, {}, {"type": 5}])
def test_an_id_that_is_not_valid_is_never_echoed(id: object, rest: dict[str, Any]) -> None:
    malformed = refused(encoded({**rest, "id": id}))
    assert malformed.id is None
    assert protocol.read_name(encoded({**rest, "id": id}))[1] is None


FIELD_NAMES = ("type", "conversation", "id", "body", "seq", "active", "x")


@given(st.dictionaries(st.sampled_from(FIELD_NAMES), st.text() | st.integers() | st.none()))
def test_whatever_an_object_holds_a_refusal_never_repeats_a_value_of_it(frame: dict[str, Any]) -> None:
    marked = {k: f"VALUE{v}" if isinstance(v, str) and k != "type" else v for k, v in frame.items()}
    malformed = outcome(encoded(marked))
    if isinstance(malformed, Malformed):
        assert "VALUE" not in malformed.refusal.message
        assert malformed.refusal.message.isprintable()
        assert len(malformed.refusal.message) < 120
        assert malformed.command in {*REQUIRED, "ping", "unknown"}


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@given(st.binary() | JSON.map(encoded) | st.dictionaries(st.text(), JSON).map(encoded))
def test_no_bytes_raise_anything_but_malformed(payload: bytes) -> None:
    result = outcome(payload)
    if isinstance(result, Malformed):
        assert isinstance(result.refusal, errors.Refusal)
        assert json.loads(protocol.error(result.refusal, result.id))["type"] == "error"
    else:
        assert type(result) in protocol.COMMANDS


identifiers = st.text(
    st.characters(exclude_categories=("Cs", "Cc")),
    min_size=1,
    max_size=128,
)
client_ids = st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=1, max_size=64)
bodies = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\x00"))
commands = st.one_of(
    st.builds(Join, identifiers, st.none() | client_ids),
    st.builds(Leave, identifiers, st.none() | client_ids),
    st.builds(Typing, identifiers, st.booleans()),
    st.builds(Send, identifiers, bodies, client_ids),
    st.builds(Read, identifiers, st.integers(0, 2**63 - 1)),
    st.builds(Ping, st.none() | client_ids),
)


@given(commands, st.booleans())
def test_every_command_that_a_client_can_write_is_read_back_as_it_was(command: Command, ascii_only: bool) -> None:
    fields = {name: getattr(command, name) for name in command.__struct_fields__}
    frame = {"type": protocol.COMMANDS[type(command)], **fields}
    payload = json.dumps(frame, ensure_ascii=ascii_only).encode()
    assert parse(payload) == command
    assert protocol.read_name(payload) == (frame["type"], frame.get("id"))


@given(commands, st.data())
def test_a_frame_that_was_cut_is_never_taken_for_another_command(command: Command, data: st.DataObject) -> None:
    payload = protocol.encode(command)
    cut = payload[: data.draw(st.integers(0, len(payload) - 1))]
    assert refused(cut).refusal.code is ErrorCode.BAD_FRAME


# --- what may be read of a frame that is refused unread ---------------------------------------------------


@pytest.mark.parametrize(
    ("payload", "name"),
    [
        (b'{"type": "send", "conversation": "c", "body": "b", "id": "1"}', ("send", "1")),
        (b'{"type": "send", "id": "1"}', ("send", "1")),
        (b'{"type": "typing", "conversation": "c", "active": true}', ("typing", None)),
        (b'{"type": "nonsense", "id": "1"}', ("unknown", "1")),
        (b'{"type": "ping", "id": ""}', ("ping", None)),
        (b"garbage", ("unknown", None)),
        (b"\xff", ("unknown", None)),
    ],
)
def test_a_frame_that_is_refused_unread_is_named_as_far_as_it_can_be(payload: bytes, name: tuple[str, str]) -> None:
    assert protocol.read_name(payload) == name


# --- what the server says ---------------------------------------------------------------------------------

SENT_AT = datetime(2026, 11, 22, 13, 0, 0, 123456, UTC)
MESSAGE = Message("c", 7, "ann", "1", 'hi "😀"\n', SENT_AT)
SAID: list[tuple[bytes, dict[str, Any]]] = [
    (
        protocol.encode(protocol.Welcome("n-1", "ann", 30.0, {"frame_bytes": 65_536})),
        {"type": "welcome", "connection": "n-1", "user": "ann", "heartbeat": 30, "limits": {"frame_bytes": 65_536}},
    ),
    (
        protocol.encode(protocol.Joined("c", ["ann", "bob"], 0)),
        {"type": "joined", "conversation": "c", "participants": ["ann", "bob"], "last_seq": 0},
    ),
    (
        protocol.encode(protocol.Joined("c", [], 5, "1")),
        {"type": "joined", "conversation": "c", "participants": [], "last_seq": 5, "id": "1"},
    ),
    (
        protocol.joined("c", ["ann", "bob"], 2, "bob", 7, "1"),
        {"type": "joined", "conversation": "c", "participants": ["ann", "bob"], "last_seq": 7, "id": "1"},
    ),
    (protocol.encode(protocol.Left("c")), {"type": "left", "conversation": "c"}),
    (protocol.encode(protocol.Left("c", "1")), {"type": "left", "conversation": "c", "id": "1"}),
    (
        protocol.encode(protocol.Left("c", reason="removed")),
        {"type": "left", "conversation": "c", "reason": "removed"},
    ),
    (
        protocol.encode(protocol.SomebodyJoined("c", "ann")),
        {"type": "participant_joined", "conversation": "c", "user": "ann"},
    ),
    (
        protocol.encode(protocol.SomebodyLeft("c", "ann")),
        {"type": "participant_left", "conversation": "c", "user": "ann"},
    ),
    (
        protocol.encode(protocol.SomebodyTyping("c", "ann", False)),
        {"type": "typing", "conversation": "c", "user": "ann", "active": False},
    ),
    (
        protocol.ack(MESSAGE),
        {"type": "ack", "id": "1", "conversation": "c", "seq": 7, "sent_at": "2026-11-22T13:00:00.123456Z"},
    ),
    (
        protocol.new_message(MESSAGE),
        {
            "type": "message",
            "conversation": "c",
            "seq": 7,
            "id": "1",
            "sender": "ann",
            "body": 'hi "😀"\n',
            "sent_at": "2026-11-22T13:00:00.123456Z",
        },
    ),
    (
        protocol.encode(protocol.SomebodyRead("c", "ann", 7)),
        {"type": "read", "conversation": "c", "user": "ann", "seq": 7},
    ),
    (protocol.encode(protocol.Deleted("c", 7)), {"type": "deleted", "conversation": "c", "seq": 7}),
    (protocol.encode(protocol.Pong()), {"type": "pong"}),
    (protocol.encode(protocol.Pong("1")), {"type": "pong", "id": "1"}),
]


@pytest.mark.parametrize(("payload", "frame"), SAID, ids=[frame["type"] for _, frame in SAID])
def test_each_frame_of_the_server_is_exactly_the_contracts(payload: bytes, frame: dict[str, Any]) -> None:
    assert json.loads(payload) == frame


REFUSALS = {
    errors.BadFrame: "bad_frame",
    errors.UnknownType: "unknown_type",
    errors.NotJoined: "not_joined",
    errors.Forbidden: "forbidden",
    errors.NotFound: "not_found",
    errors.TooLarge: "too_large",
    errors.RateLimited: "rate_limited",
    errors.Unavailable: "unavailable",
    errors.Refusal: "internal",
}


@pytest.mark.parametrize(("refusal", "code"), REFUSALS.items(), ids=REFUSALS.values())
def test_each_refusal_is_an_error_frame_with_its_code_and_with_the_id_if_there_is_one(
    refusal: type[errors.Refusal], code: str
) -> None:
    frame = {"type": "error", "code": code, "message": "because"}
    assert json.loads(protocol.error(refusal("because"))) == frame
    assert json.loads(protocol.error(refusal("because"), "1")) == {**frame, "id": "1"}


def test_there_are_no_error_codes_but_those_of_the_contract() -> None:
    assert sorted(ErrorCode) == sorted(REFUSALS.values())


def test_the_close_codes_are_those_of_the_contract() -> None:
    assert (CloseCode.GOING_AWAY, CloseCode.TOO_LARGE, CloseCode.INTERNAL) == (1001, 1009, 1011)
    assert (CloseCode.TOKEN_EXPIRED, CloseCode.SLOW_CONSUMER, CloseCode.RATE_LIMITED) == (4001, 4008, 4029)


def test_times_are_said_in_utc_whatever_zone_they_came_in() -> None:
    elsewhere = SENT_AT.astimezone(timezone(timedelta(hours=5)))
    message = Message("c", 1, "ann", "1", "", elsewhere)
    said = json.loads(protocol.ack(message))["sent_at"]
    assert datetime.fromisoformat(said) == SENT_AT
    assert said.endswith(("Z", "+05:00"))


def test_messages_are_counted_among_other_frames_whatever_their_lengths() -> None:
    def count(frames: bytes) -> int:
        return count_beginning(frames, protocol.MESSAGE_BEGINS)

    sent_at = datetime(2026, 1, 1, tzinfo=UTC)
    messages = [Message("c", 1, "ann", "1", "x" * size, sent_at) for size in (1, 1_000, 70_000)]
    frames = [text_frame(protocol.new_message(message)) for message in messages]
    quoted = b'{"body":' + protocol.new_message(messages[0]) + b"}"
    others = list(map(text_frame, (protocol.ack(messages[0]), quoted, b"", b"x" * 125, b"x" * 126)))
    assert [count(frame) for frame in frames] == [1, 1, 1]
    assert [count(frame) for frame in others] == [0] * len(others)
    assert count(b"".join([*frames[:2], *others, frames[2], *others])) == 3
    assert count(b"") == 0


@given(identifiers, st.integers(1, 2**63 - 1), identifiers, client_ids, bodies, st.datetimes(timezones=st.just(UTC)))
def test_a_message_says_what_it_holds(c: str, seq: int, sender: str, id: str, body: str, sent_at: datetime) -> None:
    frame = json.loads(protocol.new_message(Message(c, seq, sender, id, body, sent_at)))
    assert (frame["conversation"], frame["seq"], frame["sender"], frame["id"], frame["body"]) == (
        c,
        seq,
        sender,
        id,
        body,
    )
    assert datetime.fromisoformat(frame["sent_at"]) == sent_at


# --- answers that stay short in a large room ---------------------------------------------------------------


@pytest.mark.parametrize(("user", "last"), [("user-00007", "user-00999"), ("user-04321", "user-04321")])
def test_a_room_of_more_than_a_thousand_is_cut_and_says_so_and_whoever_joined_is_always_in_it(
    user: str, last: str
) -> None:
    room = [f"user-{number:05}" for number in range(5_000)]
    answer = json.loads(protocol.joined("c", room, len(room), user, 3))
    listed = answer.pop("participants")
    assert answer == {
        "type": "joined",
        "conversation": "c",
        "last_seq": 3,
        "truncated": True,
        "participants_total": 5000,
    }
    assert len(listed) == protocol.MAX_LISTED == 1_000
    assert user in listed
    assert listed == sorted(listed)
    assert (listed[0], listed[-1]) == (room[0], last)


def test_a_room_of_exactly_a_thousand_is_whole() -> None:
    room = [f"user-{number:05}" for number in range(1_000)]
    answer = json.loads(protocol.joined("c", room, len(room), room[0], 3))
    assert answer == {"type": "joined", "conversation": "c", "last_seq": 3, "participants": room}
