"""What ejabberd's and Prosody's archives have in common: a chat is stored once for each side, as a stanza in XML.

Tested in ``tests/observe/test_real_databases.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from exporter.observe.mapping import Dialect

XMPP_MESSAGES = (
    "messages with a text or an encrypted body, each once: without corrections, retractions, reactions, receipts, "
    "markers and changes of a room's subject"
)


def readable(xml: str, body: str) -> str:
    """SQL: is this stanza a message of its own? Servers write attributes in single quotes and escape ' in texts."""
    return (
        f"({body} OR {xml} LIKE '%<encrypted %<payload>%') "
        f"AND {xml} NOT LIKE '%<replace %xmlns=''urn:xmpp:message-correct:0''%' "
        f"AND {xml} NOT LIKE '%xmlns=''urn:xmpp:message-retract:%'"
    )


def opening(dialect: Dialect, xml: str) -> str:
    """SQL: the stanza's opening tag. A > stands unescaped in attributes, a ' never: the tag ends with the first '>."""
    return f"substr({xml}, 1, {dialect.position(xml, dialect.literal(chr(39) + '>'))})"


def attribute(dialect: Dialect, tag: str, name: str) -> str:
    """SQL: what follows ``name='`` in an opening tag, up to the tag's end; empty where it is missing."""
    at = dialect.position(tag, dialect.literal(f" {name}='"))
    return f"(CASE WHEN {at} > 0 THEN substr({tag}, {at} + {len(name) + 3}) ELSE '' END)"


def is_of(attribute: str, jid: str) -> str:
    """SQL: does this attribute hold the bare JID, with or without a resource?"""
    start = f"substr({attribute}, 1, length({jid}) + 1)"
    return f"({start} = {jid} || '/' OR {start} = {jid} || '''')"


def escaped(text: str) -> str:
    """SQL: a text as it stands in an attribute."""
    return f"replace(replace(replace({text}, '&', '&amp;'), '<', '&lt;'), '''', '&apos;')"


def domain(dialect: Dialect, jid: str) -> str:
    """SQL: what follows the @ of a bare JID; the whole where there is none."""
    return f"substr({jid}, {dialect.position(jid, dialect.literal('@'))} + 1)"


def local(dialect: Dialect, jid: str) -> str:
    """SQL: what stands before the @ of a bare JID; empty where there is none."""
    at = dialect.position(jid, dialect.literal("@"))
    return f"substr({jid}, 1, CASE WHEN {at} > 0 THEN {at} - 1 ELSE 0 END)"


def pair(one: str, other: str) -> str:
    """SQL: the same text for both sides of a conversation."""
    return f"CASE WHEN {one} < {other} THEN {one} || '|' || {other} ELSE {other} || '|' || {one} END"


def one_of(texts: Sequence[str], literal: Callable[[str], str]) -> str:
    """SQL: a list of literals, which matches nothing where there are none."""
    return "(" + ", ".join(literal(text) for text in texts) + ")" if texts else "(NULL)"


def from_room(xml: str) -> str:
    """SQL: did a room send this stanza on? Private messages within rooms and invitations say so."""
    return f"{xml} LIKE '%xmlns=''http://jabber.org/protocol/muc#user''%'"


def stanza_id(dialect: Dialect, id: str) -> str:
    """SQL: out of the ``attribute`` id, how it is written in both copies; nothing where there is none."""
    quote = dialect.position(id, dialect.literal("'"))
    return f"(CASE WHEN {quote} > 0 THEN ' id=''' || substr({id}, 1, {quote}) ELSE '' END)"


def flag(condition: str) -> str:
    """SQL: 1 or 0, for a step."""
    return f"CASE WHEN {condition} THEN 1 ELSE 0 END"
