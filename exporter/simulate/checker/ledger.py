"""What was promised and what was seen of it: every message sent, acknowledged, delivered; and what is wrong.

Knows no network and no clock: connections are numbers that the caller gives them, times are seconds of one
monotonic clock. Nothing is claimed that the contract does not promise:

* An acknowledged message is stored exactly once, under its ``seq`` and with its words; ``seq`` has no holes; a repeated
  acknowledgement says the same ``seq``. The ``Audit`` of a conversation checks this against what the server gives back.
* A connection that had joined before the message was first sent, or whose join was answered with a lower ``last_seq``,
  and went on reading for the grace after the acknowledgement, got it exactly once. A connection that ended earlier, or
  a slow one that was not reading, is owed nothing: the message may have been on its way. What it missed it finds by
  catching up. Between several nodes it may be on its way for ``delivery_timeout``: while their broker is out of reach
  nothing comes, and then all of it.
* A connection that has not asked to join, or has been told that it left, gets nothing.
* Messages of one sending connection, each sent once, arrive in the order of their ``seq``, and in that of their
  acknowledgements where they went to several conversations (of one node's: nodes of a cluster keep the order within
  a conversation, and ``several_nodes`` asks for no more). Between senders no order is promised; what came out of
  order there is counted (``reordered``), but is not wrong.

Memory: a message costs 20 bytes once it is settled, so a day at 100 messages a second takes 170 MB.
"""

from __future__ import annotations

from array import array
from collections import Counter, deque
from dataclasses import dataclass, field
from typing import TypeAlias

from exporter.simulate.checker.findings import Findings, Kind
from exporter.simulate.checker.membership import MOST_SEEN, Membership

Content: TypeAlias = tuple[str, str]  # of a message: its sender and its words


@dataclass(slots=True, eq=False)
class Pending:
    """A message whose fate is not settled. ``senders`` are the connections it was sent on."""

    n: int
    content: Content
    first_sent: float
    senders: list[int]
    refused: bool = False
    acknowledged: float = 0.0
    deliveries: int = 0
    owed: list[Membership] | None = None  # None: not looked at yet
    arrivals: dict[int, int] = field(default_factory=dict)  # by connection: the how many-eth delivery of all it was

    @property
    def sent_once(self) -> bool:
        """Only then is its place among the sender's messages promised."""
        return len(self.senders) == 1 and not self.refused


class Ledger:
    """The books of one simulation. ``run`` makes its message ids its own; messages are numbered 0, 1, 2…"""

    def __init__(
        self, run: str, *, grace: float = 2.0, delivery_timeout: float = 15.0, several_nodes: bool = False
    ) -> None:
        self.run = run
        self.grace = grace
        self.delivery_timeout = delivery_timeout
        self.several_nodes = several_nodes
        self.findings = Findings()
        self.acknowledged = 0
        self.deliveries = 0
        self.foreign = 0  # deliveries of other programs' messages
        self.reordered = 0
        self._authors: array[int] = array("i")
        self._conversations: array[int] = array("i")
        self._written_in: dict[int, array[int]] = {}
        self._seqs: array[int] = array("q")  # 0: not acknowledged
        self._pending: dict[int, Pending] = {}
        self._settling: deque[Pending] = deque()
        self._memberships: dict[int, dict[int, Membership]] = {}
        self._audience: dict[int, dict[Membership, int]] = {}
        self._asked: dict[int, Counter[int]] = {}  # by connection, conversation: joins that may still let messages in
        self._deleted: dict[int, set[int]] = {}
        self._arrived: dict[int, dict[int, tuple[int, int]]] = {}  # by receiver, sender: the latest arrival, its number

    # --- sending --------------------------------------------------------------------------------------------

    def write(self, author: int, conversation: int) -> int:
        """A new message: its number."""
        self._authors.append(author)
        self._conversations.append(conversation)
        self._seqs.append(0)
        n = len(self._seqs) - 1
        self._written_in.setdefault(conversation, array("i")).append(n)
        return n

    @property
    def written(self) -> int:
        """Messages so far."""
        return len(self._seqs)

    @property
    def unanswered(self) -> int:
        """Sent, and not acknowledged."""
        return sum(1 for pending in self._pending.values() if not pending.acknowledged)

    @property
    def unsettled(self) -> int:
        """Acknowledged, but some who joined may still get it."""
        return len(self._settling)

    def id_of(self, n: int) -> str:
        """The client id of a message: the same at each attempt, and another in each run."""
        return f"{self.run}.{n:x}"

    def number_of(self, id: str) -> int | None:
        """The message of this run that has this id."""
        run, _, number = id.partition(".")
        if run != self.run:
            return None
        try:
            return int(number, 16)
        except ValueError:
            return None

    def sent(self, n: int, content: Content, connection: int, now: float) -> None:
        """An attempt leaves on this connection."""
        pending = self._pending.get(n)
        if pending is None:
            if not self._seqs[n]:
                self._pending[n] = Pending(n, content, now, [connection])
        else:
            pending.senders.append(connection)

    def refused(self, n: int) -> None:
        """An attempt was answered with an error: it may be stored all the same, and may be tried again."""
        if pending := self._pending.get(n):
            pending.refused = True

    def answered(self, connection: int, id: str, seq: int, now: float) -> float | None:
        """An acknowledgement arrived. Returns the seconds since the first attempt, None for a repetition."""
        n = self.number_of(id)
        if n is None or not 0 <= n < len(self._seqs):
            self.findings.add(Kind.ALTERED, id, f"acknowledged {id!r}, which nobody sent")
            return None
        conversation = self._conversations[n]
        if membership := self._memberships.get(connection, {}).get(conversation):
            membership.mark(seq)
        if self._seqs[n]:
            if self._seqs[n] != seq:
                self.found(Kind.RENUMBERED, n, f"acknowledged as seq {self._seqs[n]}, then as seq {seq}")
            return None
        self._seqs[n] = seq
        self.acknowledged += 1
        pending = self._pending[n]
        pending.acknowledged = now
        self._settling.append(pending)
        return now - pending.first_sent

    # --- receiving ------------------------------------------------------------------------------------------

    def asked(self, connection: int, conversation: int) -> None:
        """The connection asks to join: messages may come from now on."""
        self._asked.setdefault(connection, Counter())[conversation] += 1

    def has_left(self, connection: int, conversation: int) -> None:
        """``left`` was read: none comes any more, unless it has asked again."""
        if asked := self._asked.get(connection):
            asked[conversation] = max(0, asked[conversation] - 1)

    def joined(self, connection: int, conversation: int, last_seq: int, now: float) -> None:
        """``joined`` was read: from now on the connection is owed what is sent."""
        mine = self._memberships.setdefault(connection, {})
        if conversation in mine:
            return
        membership = Membership(conversation, last_seq, now, floor=last_seq, highest=last_seq)
        mine[conversation] = membership
        self._audience.setdefault(conversation, {})[membership] = connection

    def left(self, connection: int, conversation: int, now: float) -> None:
        """The connection asks to leave, or was removed: it is owed nothing more."""
        if membership := self._memberships.get(connection, {}).pop(conversation, None):
            membership.end(now)

    def closed(self, connection: int, now: float, *, too_slow: bool = False) -> None:
        """The connection is gone, or about to be; one that was cut for being too slow is owed nothing at all."""
        self._arrived.pop(connection, None)
        self._asked.pop(connection, None)
        for membership in self._memberships.pop(connection, {}).values():
            membership.end(now)
            if too_slow:
                membership.until = membership.joined

    def paused(self, connection: int, now: float) -> None:
        """The connection stops reading for a while: it is owed what came before, and the rest once it reads again."""
        for membership in self._memberships.get(connection, {}).values():
            membership.pause(now)

    def resumed(self, connection: int, now: float) -> None:
        """It reads again."""
        for membership in self._memberships.get(connection, {}).values():
            membership.resume(now)

    def deleted(self, conversation: int, seq: int) -> None:
        """Somebody deleted a message: it leaves no hole."""
        self._deleted.setdefault(conversation, set()).add(seq)

    def delivered(
        self, connection: int, conversation: int, seq: int, id: str, content: Content, now: float
    ) -> float | None:
        """A ``message`` arrived. Returns the seconds since its first attempt, None where that is not known."""
        self.deliveries += 1
        if (asked := self._asked.get(connection)) and not asked[conversation]:
            self.findings.add(Kind.STRAYED, id, f"{id}: seq {seq} delivered to a connection that had not joined")
        membership = self._memberships.get(connection, {}).get(conversation)
        n = self.number_of(id)
        pending = self._pending.get(n) if n is not None else None
        own = pending is not None and connection in pending.senders
        if membership is not None and not own:
            self._received(membership, seq, id)
        if n is None:
            self.foreign += 1
        elif pending is not None:
            if not own:
                pending.deliveries += 1
                pending.arrivals.setdefault(connection, self.deliveries)
            self._check_delivery(pending, own, membership, conversation, seq, content)
            return now - pending.first_sent
        elif not 0 <= n < len(self._seqs):
            self.findings.add(Kind.ALTERED, id, f"delivered {id!r}, which nobody sent")
        return None

    def _received(self, membership: Membership, seq: int, id: str) -> None:
        if membership.has(seq):
            self.findings.add(Kind.REDELIVERED, id, f"{id}: seq {seq} delivered twice to one connection")
            return
        membership.mark(seq)
        self.reordered += seq < membership.highest
        membership.highest = max(membership.highest, seq)

    def _check_delivery(
        self, pending: Pending, own: bool, membership: Membership | None, conversation: int, seq: int, content: Content
    ) -> None:
        acknowledged = self._seqs[pending.n]
        if conversation != self._conversations[pending.n] or content != pending.content:
            self.found(
                Kind.ALTERED, pending.n, f"delivered as seq {seq} with other words, as somebody else's or elsewhere"
            )
        if acknowledged not in (0, seq):
            self.found(Kind.RENUMBERED, pending.n, f"acknowledged as seq {acknowledged}, delivered as seq {seq}")
        if not pending.sent_once:  # found to be stored later: it may come back to its sender, and out of its turn
            return
        if own:
            self.found(Kind.ECHOED, pending.n, f"seq {seq} came back to the connection that sent it")
        elif membership is not None:
            self._check_order(pending, membership, seq)

    def _check_order(self, pending: Pending, membership: Membership, seq: int) -> None:
        sender = pending.senders[0]
        latest = membership.latest_of.get(sender, 0)
        if seq < latest:
            self.found(Kind.MISORDERED, pending.n, f"seq {seq} arrived after seq {latest} of the same sender")
        if len(membership.latest_of) > MOST_SEEN:
            membership.latest_of.clear()
        membership.latest_of[sender] = max(seq, latest)

    # --- settling -------------------------------------------------------------------------------------------

    def settle(self, now: float, lag: float = 0.0, *, final: bool = False) -> None:
        """Look at what was acknowledged the grace ago or earlier: who should have it by now, and has not?

        ``lag`` is how late this very process has lately been: frames that it has not come round to reading
        are no fault of the server's. ``final``: there will be no other look, so the time-out is over.
        """
        grace = max(self.grace, 3 * lag)
        waiting: deque[Pending] = deque()
        while self._settling and self._settling[0].acknowledged + grace <= now:
            pending = self._settling.popleft()
            if self._still_owed(pending, now, grace, final):
                waiting.append(pending)
        while waiting:
            self._settling.appendleft(waiting.pop())
        for audience in self._audience.values():
            for membership in [m for m in audience if m.until is not None and m.until < now - self.delivery_timeout]:
                del audience[membership]

    def _still_owed(self, pending: Pending, now: float, grace: float, final: bool) -> bool:
        """Must this message be looked at again?"""
        seq = self._seqs[pending.n]
        if pending.owed is None:
            self._check_arrivals(pending)
            pending.owed = [
                membership
                for membership, connection in self._audience.get(self._conversations[pending.n], {}).items()
                if (membership.joined < pending.first_sent or seq > membership.last_seq)
                and connection not in pending.senders
            ]
        timeout = max(self.delivery_timeout, grace)
        until = pending.acknowledged + (timeout if self.several_nodes else grace)
        missing = [m for m in pending.owed if not m.has(seq) and (m.until is None or m.until > until)]
        overdue = final or now > pending.acknowledged + timeout
        # Whoever reads again since earlier has had the time; whoever is gone reads no more, and had it before.
        ready = now - (timeout if self.several_nodes and not final else grace)
        if not missing or (overdue and all(m.until is not None or (m.reading and m.resumed < ready) for m in missing)):
            self._close_book(pending, missing)
            return False
        pending.owed = missing
        return True

    def _check_arrivals(self, pending: Pending) -> None:
        """Did it overtake, in another conversation, what its sender was told of before? Called in the order of that."""
        for connection, arrival in pending.arrivals.items() if pending.sent_once and not self.several_nodes else ():
            if connection not in self._memberships:
                continue
            latest = self._arrived.setdefault(connection, {})
            before, n = latest.get(pending.senders[0], (0, 0))
            if arrival < before:
                self.found(Kind.MISORDERED, n, "arrived after a later message of the same sender")
                continue
            if len(latest) > MOST_SEEN:
                latest.clear()
            latest[pending.senders[0]] = arrival, pending.n
        pending.arrivals.clear()

    def _close_book(self, pending: Pending, missing: list[Membership]) -> None:
        n, seq = pending.n, self._seqs[pending.n]
        if missing and pending.deliveries:
            self.found(
                Kind.UNDELIVERED, n, f"seq {seq} did not reach {len(missing)} of the connections that had joined"
            )
        elif missing:
            self.found(Kind.UNHEARD, n, f"seq {seq} reached none of the {len(missing)} connections that had joined")
        for membership in missing:
            membership.mark(seq)
        del self._pending[n]

    def found(self, kind: Kind, n: int, text: str) -> None:
        """Something is wrong with the n-th message."""
        self.findings.add(kind, self.id_of(n), f"{self.id_of(n)}: {text}")

    # --- the audit ------------------------------------------------------------------------------------------

    def written_in(self, conversation: int) -> dict[int, int]:
        """Message number to acknowledged seq, 0 where there was no answer."""
        return {n: self._seqs[n] for n in self._written_in.get(conversation, ())}

    def author_of(self, n: int) -> int:
        """Who wrote the n-th message."""
        return self._authors[n]

    def deleted_in(self, conversation: int) -> set[int]:
        """The seqs that were seen to be deleted."""
        return self._deleted.get(conversation, set())
