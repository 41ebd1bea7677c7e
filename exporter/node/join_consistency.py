"""Memberships that are true when they are used, not only when the store was asked. Knows no hub and no wire.

Between a join's question and its answer messages become durable and members are removed. The first raise the
``last_seq`` that the answer promises, so that it leaves no gap; after the second the store is asked again.
"""

from __future__ import annotations

from asyncio import Future
from collections.abc import Callable
from functools import partial

from msgspec import structs

from exporter.core.events import ConversationId, UserId
from exporter.core.records import Membership
from exporter.store import Store

Known = Callable[[Future[Membership]], None]


class _Watch:
    """What happens to a conversation while somebody waits."""

    __slots__ = ("last_seq", "removals", "waiting")

    def __init__(self) -> None:
        self.waiting = 0
        self.last_seq = 0  # the highest that was accepted meanwhile
        self.removals = 0


class JoinConsistency:
    """Questions under way, by conversation. Its length is the number of conversations that somebody waits for."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._watches: dict[ConversationId, _Watch] = {}

    def __len__(self) -> int:
        return len(self._watches)

    def ask(self, conversation: ConversationId, user: UserId, known: Known) -> None:
        """``known`` is called once, later, with a future that is done. Callbacks: everybody joins in a reconnect storm.

        Raises BadFrame, and then does not call it.
        """
        question = self._store.membership(conversation, user)
        watch = self._watches.get(conversation)
        if watch is None:
            watch = self._watches[conversation] = _Watch()
        watch.waiting += 1
        question.add_done_callback(partial(self._answered, conversation, user, known, watch, watch.removals))

    def accepted(self, conversation: ConversationId, seq: int) -> None:
        """A message is durable."""
        watch = self._watches.get(conversation)
        if watch is not None and seq > watch.last_seq:
            watch.last_seq = seq

    def removed(self, conversation: ConversationId) -> None:
        """Somebody is no longer a member."""
        watch = self._watches.get(conversation)
        if watch is not None:
            watch.removals += 1

    def _answered(
        self,
        conversation: ConversationId,
        user: UserId,
        known: Known,
        watch: _Watch,
        removals: int,
        question: Future[Membership],
    ) -> None:
        if removals != watch.removals and question.exception() is None:
            again = self._store.membership(conversation, user)
            again.add_done_callback(partial(self._answered, conversation, user, known, watch, watch.removals))
            return
        watch.waiting -= 1
        if not watch.waiting:
            del self._watches[conversation]
        if question.exception() is None and watch.last_seq > question.result().last_seq:
            raised: Future[Membership] = question.get_loop().create_future()
            raised.set_result(structs.replace(question.result(), last_seq=watch.last_seq))
            question = raised
        known(question)
