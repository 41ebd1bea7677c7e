"""A small XMPP client: a person with one device on a loopback server, in plain TCP, who can say any stanza.

It knows the stream, SASL PLAIN, in-band registration and pings, and nothing else: stanzas go out as the caller writes
them, so that a test can say what no library says, and come in as XML elements.
"""

from __future__ import annotations

import asyncio
import base64
import itertools
from collections.abc import Callable
from typing import Self
from xml.etree.ElementTree import Element, XMLPullParser
from xml.sax.saxutils import escape, quoteattr

PATIENCE = 60.0
"""Seconds that an answer may take on a busy machine."""
_STREAM = "{http://etherx.jabber.org/streams}"
_SASL = "urn:ietf:params:xml:ns:xmpp-sasl"

_numbers = itertools.count(1)


class Refused(Exception):
    """The server answered with an error; the text is its XML name."""


class Device:
    """One connection of one account. ``jid`` is the full address once it is bound."""

    def __init__(self, port: int, user: str, host: str) -> None:
        self.user, self.host, self.password = user, host, f"{user}'s password"
        self.port = port
        self.jid = f"{user}@{host}"
        self.inbox: list[Element] = []
        """Messages that arrived and that nobody has asked for so far."""
        self._reader: asyncio.StreamReader
        self._writer: asyncio.StreamWriter
        self._parser: XMLPullParser
        self._depth = 0
        self._arrived = asyncio.Event()
        self._answers: dict[str, asyncio.Future[Element]] = {}
        self._pump: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def _open(self) -> None:
        self._parser, self._depth = XMLPullParser(["start", "end"]), 0
        self._write(
            f"<?xml version='1.0'?><stream:stream to={quoteattr(self.host)} version='1.0' "
            "xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams'>"
        )
        await self._read(f"{_STREAM}features")

    def _write(self, xml: str) -> None:
        self._writer.write(xml.encode())

    async def _next(self) -> Element:
        """The next whole stanza."""
        while True:
            for event, element in self._parser.read_events():
                self._depth += 1 if event == "start" else -1
                if event == "end" and self._depth == 1:
                    return element
            data = await self._reader.read(65536)
            if not data:
                raise ConnectionError(f"{self.jid}: the server closed the stream")
            self._parser.feed(data)

    async def _read(self, *tags: str) -> Element:
        async with asyncio.timeout(PATIENCE):
            element = await self._next()
        if element.tag not in tags:
            inner = [child.tag for child in element]
            raise Refused(f"{self.jid}: {element.tag} {inner}, where {tags} was expected")
        return element

    async def _iq(self, kind: str, payload: str, to: str = "") -> Element:
        name = f"i{next(_numbers)}"
        address = f" to={quoteattr(to)}" if to else ""
        self._write(f"<iq type='{kind}' id='{name}'{address}>{payload}</iq>")
        if self._pump is None:
            answer = await self._read("{jabber:client}iq")
        else:
            self._answers[name] = asyncio.get_running_loop().create_future()
            async with asyncio.timeout(PATIENCE):
                answer = await self._answers[name]
        if answer.get("type") == "error":
            raise Refused(f"{self.jid}: {[child.tag for error in answer for child in error]}")
        return answer

    async def register(self) -> None:
        """Make the account (XEP-0077), on a connection of its own; raises Refused when the name is taken."""
        self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            await self._open()
            await self._iq(
                "set",
                "<query xmlns='jabber:iq:register'>"
                f"<username>{escape(self.user)}</username><password>{escape(self.password)}</password></query>",
            )
        finally:
            self._writer.close()

    async def unregister(self) -> None:
        """Delete the account; the server closes the stream."""
        self._write("<iq type='set' id='gone'><query xmlns='jabber:iq:register'><remove/></query></iq>")
        assert self._pump is not None
        async with asyncio.timeout(PATIENCE):
            await asyncio.wait([self._pump])
        await self.close()

    async def connect(self, resource: str = "device", *, anonymous: bool = False, carbons: bool = False) -> Self:
        """Sign in, bind the resource and become available."""
        self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self.port)
        await self._open()
        if anonymous:
            self._write(f"<auth xmlns='{_SASL}' mechanism='ANONYMOUS'/>")
        else:
            word = base64.b64encode(f"\0{self.user}\0{self.password}".encode()).decode()
            self._write(f"<auth xmlns='{_SASL}' mechanism='PLAIN'>{word}</auth>")
        await self._read(f"{{{_SASL}}}success")
        await self._open()
        bind = "urn:ietf:params:xml:ns:xmpp-bind"
        bound = await self._iq("set", f"<bind xmlns='{bind}'><resource>{escape(resource)}</resource></bind>")
        jid = bound.findtext(f".//{{{bind}}}jid")
        assert jid is not None
        self.jid = jid
        self.user = jid.partition("@")[0]
        self._pump = asyncio.get_running_loop().create_task(self._take())
        if carbons:
            await self._iq("set", "<enable xmlns='urn:xmpp:carbons:2'/>")
        self._write("<presence/>")
        await self.settled()
        return self

    async def _take(self) -> None:
        try:
            while True:
                element = await self._next()
                waiting = self._answers.pop(element.get("id", ""), None) if element.tag.endswith("}iq") else None
                if waiting is not None:
                    waiting.set_result(element)
                elif element.tag.endswith("}message") or element.tag.endswith("}presence"):
                    self.inbox.append(element)
                elif element.tag.endswith("}iq") and element.get("type") in ("get", "set"):
                    self._write(
                        f"<iq type='error' id={quoteattr(element.get('id', ''))} "
                        f"to={quoteattr(element.get('from', ''))}>"
                        "<error type='cancel'><service-unavailable xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/>"
                        "</error></iq>"
                    )
                self._arrived.set()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            for waiting in self._answers.values():
                waiting.cancel()

    def say(self, stanza: str) -> None:
        """Send a stanza as it is written."""
        self._write(stanza)

    async def iq(self, kind: str, payload: str, to: str = "") -> Element:
        """Ask and wait for the answer."""
        return await self._iq(kind, payload, to)

    async def settled(self) -> None:
        """The server has taken everything that was said on this stream so far."""
        await self._iq("get", "<ping xmlns='urn:xmpp:ping'/>", self.host)

    async def receive(self, wanted: Callable[[Element], bool], what: str = "a stanza") -> Element:
        """Wait for the first stanza that is wanted, and take it out of the inbox."""
        async with asyncio.timeout(PATIENCE):
            while True:
                for element in self.inbox:
                    if wanted(element):
                        self.inbox.remove(element)
                        return element
                assert self._pump is not None
                if self._pump.done():
                    raise ConnectionError(f"{self.jid}: closed while waiting for {what}")
                self._arrived.clear()
                await self._arrived.wait()

    async def close(self) -> None:
        """End the stream."""
        if self._pump is not None:
            self._pump.cancel()
            await asyncio.gather(self._pump, return_exceptions=True)
            self._pump = None
            self._write("<presence type='unavailable'/></stream:stream>")
            self._writer.close()
