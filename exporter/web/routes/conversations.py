"""The conversation routes: HTTP to the node and back. Decides nothing: rights are the store's business.

Tested in ``tests/integration/test_http.py``.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

import msgspec
from aiohttp import web
from aiohttp.typedefs import Handler

from exporter.auth.tokens import ADMIN, Authenticator
from exporter.core.errors import BadFrame, Unavailable
from exporter.core.protocol import MAX_SEQ, check_identifier
from exporter.core.records import Conversation, Message
from exporter.node.node import Node
from exporter.store.lanes import Turns
from exporter.web.access import claims_of
from exporter.web.problems import Problem
from exporter.web.routes import schemas
from exporter.web.routes.answers import IMPOSSIBLE_TOTAL, answer, by_path_and_query, identifier
from exporter.web.routes.schemas import NewConversation, NewParticipants

DEFAULT_LIMIT = 100
MAX_LIMIT = 1_000
MAX_PARTICIPANTS = 1_000  # in one request
MAX_BODIES = 4 * 1024 * 1024  # bytes of message bodies in one answer, and one message besides
MAX_LISTS = 8
"""Of one user's lists under way at once, until they are read: each may take 4 MiB, and who reads slowly holds it."""
SLICE = 262_144  # bytes, about, that are encoded in one turn of the loop: half a millisecond
ITEM = 100  # bytes of an item besides names and bodies

T = TypeVar("T", bound=msgspec.Struct)


class Conversations:
    """The handlers; ``routes()`` is what an application adds."""

    def __init__(self, node: Node, authenticator: Authenticator) -> None:
        self._node = node
        self._authenticator = authenticator
        self._lists = Turns(None, MAX_LISTS)

    def routes(self) -> list[web.RouteDef]:
        """All below ``/v1/messaging/conversations``; a segment matches anything, aiohttp's own ``{id}`` no braces."""
        base = "/v1/messaging/conversations"
        named = [
            web.get(base + "/{id:[^/]+}/participants", self._listing(self.participants)),
            web.post(base + "/{id:[^/]+}/participants", self.add),
            web.delete(base + "/{id:[^/]+}/participants/{user:[^/]+}", self.remove),
            web.get(base + "/{id:[^/]+}/messages", self._listing(self.messages)),
            web.delete(base + "/{id:[^/]+}/messages/{seq:[^/]+}", self.delete),
        ]
        both = [web.route(r.method, path, r.handler) for r in named for path in by_path_and_query(r.path)]
        return [web.post(base, self.create), web.get(base, self._listing(self.mine)), *both]

    def _listing(self, handler: Handler) -> Handler:
        """A list, once the user's earlier ones have been read; 503 when they are not in time."""

        async def handle(request: web.Request) -> web.StreamResponse:
            user = claims_of(request, self._authenticator).user
            try:
                async with asyncio.timeout(self._node.store.timeout):
                    await self._lists.take(user)
            except TimeoutError:
                raise Unavailable("earlier answers to this user have not been read") from None
            try:
                response = await handler(request)
                with contextlib.suppress(ConnectionError):  # aiohttp meets it, too
                    await response.prepare(request)
                    await response.write_eof()
            finally:
                self._lists.give_back(user)
            return response

        return handle

    async def create(self, request: web.Request) -> web.Response:
        """201 with the conversation; 409 for an existing id."""
        claims = claims_of(request, self._authenticator)
        wanted = await _body(request, NewConversation)
        if wanted.id is not None:
            check_identifier(wanted.id, "id")
        _check_participants(wanted.participants)
        made = await self._node.create_conversation(wanted.id, claims.user, wanted.participants)
        return answer(_shape(made), 201)

    async def mine(self, request: web.Request) -> web.Response:
        """200 with conversations of which the user is a member, by id, behind ``?after=ID``."""
        claims = claims_of(request, self._authenticator)
        after, limit = identifier(request, "after", required=False), _limit(request)
        found = await self._node.store.conversations_of(claims.user, after, limit)
        sized = ((_shape(one), sum(map(len, one.participants))) for one in found)
        return await _json_list('{"conversations":', sized, "}")

    async def participants(self, request: web.Request) -> web.Response:
        """200 with members, by name, behind ``?after=NAME``, and how many there are."""
        claims = claims_of(request, self._authenticator)
        after, limit = identifier(request, "after", required=False), _limit(request)
        found, total = await self._node.store.members(identifier(request, "id"), claims.user, after, limit)
        return answer(schemas.Participants(found, total))

    async def add(self, request: web.Request) -> web.Response:
        """201 with the conversation; adding who is a member already changes nothing."""
        claims = claims_of(request, self._authenticator)
        conversation = identifier(request, "id")
        wanted = await _body(request, NewParticipants)
        _check_participants(wanted.participants)
        return answer(_shape(await self._node.add_participants(conversation, claims.user, wanted.participants)), 201)

    async def remove(self, request: web.Request) -> web.Response:
        """204; the removed user's connections leave at once."""
        claims = claims_of(request, self._authenticator)
        await self._node.remove_participant(identifier(request, "id"), claims.user, identifier(request, "user"))
        return web.Response(status=204)

    async def messages(self, request: web.Request) -> web.Response:
        """200 with the messages after a seq, the oldest first, and the conversation's ``last_seq``.

        They may be fewer than asked for, though there are more, when their bodies are large (``MAX_BODIES``).
        """
        claims = claims_of(request, self._authenticator)
        after = _number(request, "after", 0, lowest=0)
        limit, name = _limit(request), identifier(request, "id")
        found, last_seq = await self._node.store.messages_after(name, claims.user, after, limit, MAX_BODIES)
        return await _json_list('{"messages":', _fitting(found), f',"last_seq":{last_seq}}}')

    async def delete(self, request: web.Request) -> web.Response:
        """204 for the sender and for admins; totals fall by one, the joined are told."""
        claims = claims_of(request, self._authenticator)
        seq = request.match_info.get("seq") or request.query.get("seq", "")
        if not (seq.isascii() and seq.isdigit() and len(seq) < 20 and 0 < int(seq) <= MAX_SEQ):
            raise Problem(404, "no such message")
        admin = claims.role == ADMIN
        await self._node.delete_message(identifier(request, "id"), int(seq), claims.user, admin=admin)
        return web.Response(status=204)


async def _body(request: web.Request, shape: type[T]) -> T:
    try:
        return msgspec.json.decode(await request.read(), type=shape)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        text = str(error) if isinstance(error, msgspec.ValidationError) else "not a JSON object in UTF-8"
        raise BadFrame(f"the body is wrong: {text[:1].lower()}{text[1:]}") from None


def _check_participants(users: list[str]) -> None:
    if len(users) > MAX_PARTICIPANTS:
        raise BadFrame(f"more than {MAX_PARTICIPANTS} participants in one request")
    for user in users:
        check_identifier(user, "participant")


def _number(request: web.Request, name: str, default: int, *, lowest: int) -> int:
    text = request.query.get(name)
    if text is None:
        return default
    if not (text.isascii() and text.isdigit() and len(text) < 20 and lowest <= int(text) <= MAX_SEQ):
        raise BadFrame(f"{name} is not a number from {lowest} up")
    return int(text)


def _limit(request: web.Request) -> int:
    return min(_number(request, "limit", DEFAULT_LIMIT, lowest=1), MAX_LIMIT)


def _shape(found: Conversation) -> schemas.Conversation:
    return schemas.Conversation(
        found.id,
        found.total_messages,
        found.last_seq,
        found.participants,
        truncated=found.participants_total is not None,
        participants_total=found.participants_total,
        error=IMPOSSIBLE_TOTAL if found.total_messages is None else None,
    )


def _fitting(messages: Iterable[Message]) -> Iterator[tuple[schemas.Message, int]]:
    """The first messages, as many as an answer holds, with the sizes of their bodies."""
    total = 0
    for message in messages:
        if total > MAX_BODIES:
            return
        total += len(message.body)
        yield _stored(message), len(message.body)


def _stored(message: Message) -> schemas.Message:
    return schemas.Message(message.seq, message.id, message.sender, message.body, message.sent_at)


async def _json_list(start: str, items: Iterable[tuple[Any, int]], end: str) -> web.Response:
    """A document around a list of items with their sizes, encoded in slices: others have their turn in between."""
    parts: list[bytes] = []
    slice: list[Any] = []
    size = 0
    for item, more in items:
        slice.append(item)
        size += more + ITEM
        if size >= SLICE:
            parts.append(msgspec.json.encode(slice)[1:-1])
            slice, size = [], 0
            await asyncio.sleep(0)
    if slice:
        parts.append(msgspec.json.encode(slice)[1:-1])
    return answer(b"".join((start.encode(), b"[", b",".join(parts), b"]", end.encode())))
