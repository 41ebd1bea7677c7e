"""What ejabberd's and Prosody's archives have in common: a chat is stored once for each side, as a stanza in XML."""

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


def head(dialect: Dialect, xml: str) -> str:
    """SQL: the stanza's opening tag."""
    return f"substr({xml}, 1, {dialect.position(xml, dialect.literal('>'))})"


def escaped(text: str) -> str:
    """SQL: a text as it stands in an attribute."""
    return f"replace(replace({text}, '&', '&amp;'), '''', '&apos;')"


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
