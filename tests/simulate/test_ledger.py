"""The books of a simulation: an honest server is never accused, and each broken promise is found."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exporter.simulate.checker.audit import Audit
from exporter.simulate.checker.findings import Kind
from exporter.simulate.checker.ledger import Ledger
from exporter.simulate.checker.membership import MOST_SEEN, Membership

GRACE, DELIVERY_TIMEOUT = 2.0, 15.0


@pytest.fixture
def ledger() -> Ledger:
    return Ledger("run", grace=GRACE, delivery_timeout=DELIVERY_TIMEOUT)


def content(n: int) -> tuple[str, str]:
    return "ann", f"body {n}"


def send(ledger: Ledger, connection: int = 1, now: float = 1.0) -> int:
    n = ledger.write(0, 0)
    ledger.sent(n, content(n), connection, now)
    return n


def deliver(ledger: Ledger, connection: int, seq: int, n: int, now: float = 1.1) -> None:
    ledger.delivered(connection, 0, seq, ledger.id_of(n), content(n), now)


def acknowledge(ledger: Ledger, seq: int, n: int, now: float = 1.1, connection: int = 1) -> float | None:
    return ledger.answered(connection, ledger.id_of(n), seq, now)


def audit(ledger: Ledger, stored: list[tuple[int, int]], last_seq: int, after: int = 0) -> int:
    book = Audit(ledger, 0, after, content)
    book.feed((seq, ledger.id_of(n), "ann", f"body {n}") for seq, n in stored)
    return book.finish(last_seq)


def found(ledger: Ledger) -> dict[str, int]:
    return {kind.value: count for kind, count in ledger.findings.counts.items()}


def test_a_message_that_was_sent_acknowledged_delivered_and_stored_leaves_no_finding(ledger: Ledger) -> None:
    for connection in (1, 2, 3):
        ledger.joined(connection, 0, 0, 0.5)
    n = send(ledger)
    assert acknowledge(ledger, 1, n) == pytest.approx(0.1)
    deliver(ledger, 2, 1, n)
    deliver(ledger, 3, 1, n)
    ledger.settle(4.0)
    assert audit(ledger, [(1, n)], 1) == 1
    assert found(ledger) == {}
    assert (ledger.acknowledged, ledger.deliveries, ledger.unanswered, ledger.unsettled) == (1, 2, 0, 0)


def test_an_acknowledged_message_that_is_not_stored_is_lost_and_not_a_hole_too(ledger: Ledger) -> None:
    acknowledge(ledger, 1, send(ledger))
    assert audit(ledger, [], 1) == 1
    assert found(ledger) == {"lost": 1}


def test_a_message_without_an_answer_may_be_stored_or_not_but_not_twice(ledger: Ledger) -> None:
    first, second, third = send(ledger), send(ledger), send(ledger)
    audit(ledger, [(1, first), (2, third), (3, third)], 3)
    assert found(ledger) == {"doubled": 1}
    assert ledger.findings.messages[Kind.DOUBLED] == {ledger.id_of(third)}
    assert ledger.unanswered == 3
    assert second not in (first, third)


def test_a_seq_that_nothing_has_is_a_hole_in_the_middle_and_at_the_end(ledger: Ledger) -> None:
    first, second = send(ledger), send(ledger)
    audit(ledger, [(11, first), (13, second)], 15, after=10)
    assert ledger.findings.messages[Kind.HOLE] == {"0#12", "0#14", "0#15"}


def test_a_deleted_message_leaves_neither_a_hole_nor_a_loss(ledger: Ledger) -> None:
    first, second = send(ledger), send(ledger)
    acknowledge(ledger, 1, first)
    acknowledge(ledger, 2, second)
    ledger.deleted(0, 1)
    ledger.deleted(0, 3)
    audit(ledger, [(2, second)], 3)
    assert found(ledger) == {}


def test_a_message_that_comes_where_nobody_asked_for_it_is_found(ledger: Ledger) -> None:
    """From the asking on it may come, since the server may know of the join first, until it says that it is over."""
    ledger.asked(2, 1)
    ledger.asked(3, 0)
    joining, there, left, late = (send(ledger) for _ in range(4))
    deliver(ledger, 3, 1, joining)
    ledger.joined(3, 0, 1, 1.2)
    deliver(ledger, 3, 2, there)
    ledger.left(3, 0, 1.3)
    deliver(ledger, 3, 3, left)
    assert found(ledger) == {}
    deliver(ledger, 2, 1, joining)
    ledger.asked(3, 0)
    ledger.has_left(3, 0)
    deliver(ledger, 3, 3, left)
    assert found(ledger) == {"strayed": 1}
    ledger.has_left(3, 0)
    deliver(ledger, 3, 4, late)
    assert ledger.findings.messages == {Kind.STRAYED: {ledger.id_of(joining), ledger.id_of(late)}}
    ledger.closed(3, 1.4)
    deliver(ledger, 3, 5, send(ledger))  # what had been read before it ended
    assert found(ledger) == {"strayed": 2}


def test_a_message_that_is_delivered_in_another_conversation_is_found(ledger: Ledger) -> None:
    ledger.joined(2, 1, 0, 0.5)
    n = send(ledger)
    ledger.delivered(2, 1, 1, ledger.id_of(n), content(n), 1.1)
    assert found(ledger) == {"altered": 1}


def test_a_message_that_is_stored_in_another_conversation_is_found(ledger: Ledger) -> None:
    n = ledger.write(0, 1)
    ledger.sent(n, content(n), 1, 1.0)
    audit(ledger, [(1, n)], 1)
    assert found(ledger) == {"altered": 1}


def test_another_seq_than_acknowledged_is_found_whoever_says_it(ledger: Ledger) -> None:
    ledger.joined(2, 0, 0, 0.5)
    again, elsewhere, delivered = send(ledger), send(ledger), send(ledger)
    for seq, n in ((1, again), (2, elsewhere), (3, delivered)):
        acknowledge(ledger, seq, n)
    assert acknowledge(ledger, 9, again) is None
    deliver(ledger, 2, 8, delivered)
    audit(ledger, [(1, again), (3, delivered), (4, elsewhere)], 4)
    assert ledger.findings.messages[Kind.RENUMBERED] == {ledger.id_of(again), ledger.id_of(delivered)}
    assert ledger.findings.messages[Kind.MOVED] == {ledger.id_of(elsewhere)}


def test_other_words_another_sender_and_a_message_nobody_sent_are_altered(ledger: Ledger) -> None:
    ledger.joined(2, 0, 0, 0.5)
    first, second, third, fourth = send(ledger), send(ledger), send(ledger), send(ledger)
    ledger.delivered(2, 0, 1, ledger.id_of(first), ("ann", "something else"), 1.1)
    ledger.delivered(2, 0, 9, "run.ff", ("ann", "body"), 1.1)
    ledger.delivered(2, 0, 4, ledger.id_of(fourth), ("eve", "body 3"), 1.1)
    book = Audit(ledger, 0, 0, content)
    book.feed(
        [(1, ledger.id_of(second), "eve", "body 1"), (2, ledger.id_of(third), "ann", "x"), (3, "run.fe", "a", "b")]
    )
    assert ledger.findings.counts[Kind.ALTERED] == 6


def test_a_repeated_acknowledgement_with_the_same_seq_is_what_was_promised(ledger: Ledger) -> None:
    n = send(ledger)
    ledger.refused(n)
    ledger.sent(n, content(n), 2, 3.0)
    assert acknowledge(ledger, 1, n, 4.0, connection=2) == pytest.approx(3.0)
    assert acknowledge(ledger, 1, n, 4.1, connection=2) is None
    assert ledger.acknowledged == 1
    assert found(ledger) == {}


def test_a_connection_that_gets_a_message_twice_is_found_however_late(ledger: Ledger) -> None:
    ledger.joined(2, 0, 0, 0.5)
    messages = [send(ledger) for _ in range(3)]
    for seq, n in enumerate(messages, 1):
        deliver(ledger, 2, seq, n)
        acknowledge(ledger, seq, n)
    ledger.settle(100.0)
    assert ledger.unsettled == 0
    deliver(ledger, 2, 2, messages[1], 200.0)
    assert ledger.findings.messages[Kind.REDELIVERED] == {ledger.id_of(messages[1])}


def test_one_who_had_joined_and_got_nothing_is_found_after_the_timeout(ledger: Ledger) -> None:
    for connection in (1, 2, 3):
        ledger.joined(connection, 0, 0, 0.5)
    partly, unheard = send(ledger), send(ledger)
    acknowledge(ledger, 1, partly)
    acknowledge(ledger, 2, unheard)
    deliver(ledger, 3, 1, partly)
    ledger.settle(10.0)
    assert found(ledger) == {}
    assert ledger.unsettled == 2
    ledger.settle(20.0)
    assert found(ledger) == {"undelivered": 1, "unheard": 1}
    assert ledger.unsettled == 0
    deliver(ledger, 2, 1, partly, 30.0)  # late is not never, but it was given up
    assert found(ledger)["redelivered"] == 1


@pytest.mark.parametrize(
    ("joined", "last_seq", "until"),
    [(1.5, 1, None), (0.5, 0, 1.05), (0.5, 0, 2.9)],
    ids=["joined later", "left", "left within the grace"],
)
def test_who_was_not_there_all_the_time_is_owed_nothing(
    ledger: Ledger, joined: float, last_seq: int, until: float | None
) -> None:
    n = send(ledger)
    ledger.joined(2, 0, last_seq, joined)
    if until is not None:
        ledger.closed(2, until)
    acknowledge(ledger, 1, n)
    ledger.settle(40.0)
    assert found(ledger) == {}
    assert ledger.unsettled == 0


def test_who_joined_while_a_message_was_under_way_should_get_it_or_be_told_of_it_by_the_joins_last_seq(
    ledger: Ledger,
) -> None:
    n = send(ledger)
    ledger.joined(2, 0, 0, 1.5)
    acknowledge(ledger, 1, n)
    ledger.settle(20.0)
    assert found(ledger) == {"unheard": 1}


def test_a_join_that_is_answered_with_more_than_there_was_excuses_nothing(ledger: Ledger) -> None:
    ledger.joined(2, 0, 5, 0.5)
    acknowledge(ledger, 5, send(ledger))
    ledger.settle(20.0)
    assert found(ledger) == {"unheard": 1}


def test_who_left_well_after_the_grace_should_have_got_it(ledger: Ledger) -> None:
    ledger.joined(2, 0, 0, 0.5)
    acknowledge(ledger, 1, send(ledger))
    ledger.settle(3.2)
    ledger.left(2, 0, 3.5)
    ledger.settle(20.0)
    assert found(ledger) == {"unheard": 1}


def test_a_slow_reader_is_waited_for_and_one_that_is_cut_off_is_owed_nothing(ledger: Ledger) -> None:
    ledger.joined(2, 0, 0, 0.5)
    ledger.joined(3, 0, 0, 0.5)
    ledger.paused(2, 0.9)
    ledger.paused(3, 0.9)
    n = send(ledger)
    acknowledge(ledger, 1, n)
    ledger.settle(30.0)
    assert ledger.unsettled == 1
    ledger.resumed(3, 31.0)
    ledger.closed(3, 33.0, too_slow=True)
    ledger.resumed(2, 31.0)
    deliver(ledger, 2, 1, n, 31.1)
    ledger.settle(40.0)
    assert ledger.unsettled == 0
    assert found(ledger) == {}


def test_a_reader_that_resumes_and_still_lacks_it_was_not_delivered_to(ledger: Ledger) -> None:
    ledger.joined(2, 0, 0, 0.5)
    ledger.paused(2, 0.9)
    acknowledge(ledger, 1, send(ledger))
    ledger.resumed(2, 31.0)
    ledger.settle(32.0)
    assert found(ledger) == {}
    ledger.settle(34.0)
    assert found(ledger) == {"unheard": 1}


def test_one_that_breaks_off_while_it_does_not_read_is_owed_nothing_of_that_time(ledger: Ledger) -> None:
    ledger.joined(2, 0, 0, 0.5)
    ledger.paused(2, 0.9)
    acknowledge(ledger, 1, send(ledger))
    ledger.resumed(2, 9.0)
    ledger.closed(2, 9.5)
    ledger.settle(40.0)
    assert found(ledger) == {}


def test_what_was_lost_before_a_pause_is_found_also_when_the_connection_ends_in_it(ledger: Ledger) -> None:
    ledger.joined(2, 0, 0, 0.5)
    acknowledge(ledger, 1, send(ledger))
    ledger.paused(2, 9.0)  # as where its process stands still, and dies of it
    ledger.closed(2, 12.0)
    ledger.settle(40.0)
    assert found(ledger) == {"unheard": 1}


@pytest.mark.parametrize("several_nodes", [False, True])
def test_the_last_look_waits_for_nobody_who_has_read_again_for_the_grace(ledger: Ledger, several_nodes: bool) -> None:
    ledger.several_nodes = several_nodes
    ledger.joined(2, 0, 0, 0.5)
    acknowledge(ledger, 1, send(ledger))
    ledger.paused(2, 2.0)
    ledger.resumed(2, 4.0)
    ledger.settle(9.0, final=True)
    assert found(ledger) == {"unheard": 1}


def test_pauses_close_upon_each_other_are_one(ledger: Ledger) -> None:
    ledger.joined(2, 0, 0, 0.5)
    ledger.paused(2, 0.9)
    acknowledge(ledger, 1, send(ledger))
    ledger.resumed(2, 5.0)
    ledger.paused(2, 5.1)
    ledger.resumed(2, 9.0)
    ledger.closed(2, 9.1)
    ledger.settle(40.0)
    assert found(ledger) == {}


def test_a_process_that_lags_blames_itself_first(ledger: Ledger) -> None:
    ledger.joined(2, 0, 0, 0.5)
    acknowledge(ledger, 1, send(ledger))
    ledger.left(2, 0, 8.0)
    ledger.settle(20.0, lag=5.0)
    assert found(ledger) == {}


def test_a_message_that_overtakes_one_of_the_same_sender_is_misordered_of_another_only_counted(ledger: Ledger) -> None:
    ledger.joined(9, 0, 0, 0.5)
    first, second = send(ledger, 1), send(ledger, 1)
    other = send(ledger, 2)
    deliver(ledger, 9, 2, second)
    deliver(ledger, 9, 1, first)
    assert ledger.findings.messages[Kind.MISORDERED] == {ledger.id_of(first)}
    deliver(ledger, 9, 4, send(ledger, 3))
    deliver(ledger, 9, 3, other)
    assert found(ledger) == {"misordered": 1}
    assert ledger.reordered == 2


@pytest.mark.parametrize("several_nodes", [False, True])
def test_between_nodes_a_message_is_on_its_way_for_longer(ledger: Ledger, several_nodes: bool) -> None:
    ledger.several_nodes = several_nodes  # whose broker may be out of reach for a while
    ended, there = 2, 3
    for connection in (1, ended, there):
        ledger.joined(connection, 0, 0, 0.5)
    n = send(ledger)
    acknowledge(ledger, 1, n)
    deliver(ledger, 4, 1, n)
    ledger.closed(ended, 5.0)  # after the grace, and before what comes late could be missed
    deliver(ledger, there, 1, n, 9.0)
    ledger.settle(20.0)
    assert found(ledger) == ({} if several_nodes else {"undelivered": 1})
    n = send(ledger, now=20.0)
    acknowledge(ledger, 2, n, 20.1)
    deliver(ledger, 4, 2, n, 20.2)
    ledger.settle(40.0)  # who is still there after that time is owed it, on however many nodes
    assert found(ledger)["undelivered"] == (1 if several_nodes else 2)


@pytest.mark.parametrize("several_nodes", [False, True])
def test_an_order_that_is_broken_across_conversations_is_found_too(ledger: Ledger, several_nodes: bool) -> None:
    ledger.several_nodes = several_nodes  # a cluster promises the order within a conversation only
    ledger.joined(9, 0, 0, 0.5)
    ledger.joined(9, 1, 0, 0.5)
    here, there, last = ledger.write(0, 0), ledger.write(0, 1), ledger.write(0, 0)
    for n in (here, there, last):
        ledger.sent(n, content(n), 1, 1.0)
    for seq, n in ((1, here), (1, there), (2, last)):
        acknowledge(ledger, seq, n)
    ledger.delivered(9, 1, 1, ledger.id_of(there), content(there), 1.2)
    deliver(ledger, 9, 1, here)
    deliver(ledger, 9, 2, last)
    assert found(ledger) == {}
    ledger.settle(10.0)
    assert ledger.findings.messages.get(Kind.MISORDERED, set()) == (set() if several_nodes else {ledger.id_of(here)})
    assert found(ledger) == ({} if several_nodes else {"misordered": 1})


def test_a_message_that_was_tried_again_has_no_promised_place(ledger: Ledger) -> None:
    ledger.joined(9, 0, 0, 0.5)
    first, second = send(ledger), send(ledger)
    ledger.refused(first)
    deliver(ledger, 9, 2, second)
    deliver(ledger, 9, 1, first)
    deliver(ledger, 1, 1, first)  # and it may come back to its sender, who does not know yet
    assert found(ledger) == {}


def test_no_connection_that_a_message_was_sent_on_is_owed_it(ledger: Ledger) -> None:
    for connection in (1, 2):
        ledger.joined(connection, 0, 0, 0.5)
    n = send(ledger)
    ledger.refused(n)
    ledger.sent(n, content(n), 2, 3.0)
    acknowledge(ledger, 1, n, 4.0, connection=2)
    ledger.settle(40.0)
    assert (found(ledger), ledger.unsettled) == ({}, 0)


def test_a_message_that_comes_back_to_the_connection_that_sent_it_is_an_echo_to_another_tab_a_delivery(
    ledger: Ledger,
) -> None:
    for connection in (1, 2):
        ledger.joined(connection, 0, 0, 0.5)
    n = send(ledger)
    deliver(ledger, 2, 1, n)
    assert found(ledger) == {}
    deliver(ledger, 1, 1, n)
    assert found(ledger) == {"echoed": 1}


def test_messages_of_other_programs_are_counted_and_not_judged_but_for_coming_twice(ledger: Ledger) -> None:
    ledger.joined(2, 0, 7, 0.5)
    ledger.delivered(2, 0, 8, "anything", ("eve", "hello"), 1.0)
    assert ledger.foreign == 1
    ledger.delivered(2, 0, 8, "anything", ("eve", "hello"), 1.2)
    assert found(ledger) == {"redelivered": 1}
    assert ledger.number_of("run.zz") is None


def test_connections_that_ended_are_forgotten(ledger: Ledger) -> None:
    ledger.asked(2, 0)
    ledger.joined(2, 0, 0, 0.5)
    ledger.closed(2, 1.0)
    ledger.settle(1.1 + DELIVERY_TIMEOUT)
    assert (ledger._audience, ledger._memberships, ledger._asked) == ({0: {}}, {}, {})


def test_a_gap_costs_bounded_memory() -> None:
    membership = Membership(0, 10, 0.0, floor=10, highest=10)
    for seq in range(12, 12 + 3 * MOST_SEEN):
        membership.mark(seq)
    assert len(membership.seen) <= MOST_SEEN
    assert membership.has(11 + 3 * MOST_SEEN)


class Honest:
    """A server that keeps every promise, with people who come, go, lose their network, look away and try again."""

    def __init__(self, random: Random) -> None:
        self.random = random
        self.ledger = Ledger("run", grace=GRACE, delivery_timeout=DELIVERY_TIMEOUT)
        self.now = 1.0
        self.stored: list[int] = []
        self.seqs: dict[int, int] = {}
        self.connections: set[int] = set()
        self.looking_away: dict[int, list[tuple[int, int]]] = {}
        self.unanswered: list[int] = []
        self.next = 1

    def step(self) -> None:
        self.now += self.random.expovariate(2.0)
        act = self.random.choice([self.join, self.leave, self.send, self.send, self.again, self.look_away, self.look])
        act()
        self.ledger.settle(self.now)

    def join(self) -> None:
        self.connections.add(self.next)
        self.ledger.joined(self.next, 0, len(self.stored), self.now)
        self.next += 1

    def leave(self) -> None:
        if self.connections:
            connection = self.random.choice(sorted(self.connections))
            self.connections.discard(connection)
            slow = self.looking_away.pop(connection, None) is not None and self.random.random() < 0.5
            self.ledger.closed(connection, self.now, too_slow=slow)

    def look_away(self) -> None:
        reading = sorted(self.connections - self.looking_away.keys())
        if reading:
            connection = self.random.choice(reading)
            self.looking_away[connection] = []
            self.ledger.paused(connection, self.now)

    def look(self) -> None:
        if self.looking_away:
            connection = self.random.choice(sorted(self.looking_away))
            self.ledger.resumed(connection, self.now)
            for seq, n in self.looking_away.pop(connection):
                deliver(self.ledger, connection, seq, n, self.now)

    def send(self) -> None:
        reading = sorted(self.connections - self.looking_away.keys())
        if reading:
            connection = self.random.choice(reading)
            n = send(self.ledger, connection, self.now)
            self.store(n, connection)
            if self.random.random() < 0.7:
                acknowledge(self.ledger, self.seqs[n], n, self.now + 0.01, connection)
            else:
                self.unanswered.append(n)  # the answer was lost with the network
                self.ledger.closed(connection, self.now)
                self.connections.discard(connection)

    def store(self, n: int, connection: int) -> None:
        self.stored.append(n)
        self.seqs[n] = len(self.stored)
        for other in self.connections - {connection}:
            if other in self.looking_away:
                self.looking_away[other].append((self.seqs[n], n))
            else:
                deliver(self.ledger, other, self.seqs[n], n, self.now)

    def again(self) -> None:
        reading = sorted(self.connections - self.looking_away.keys())
        if self.unanswered and reading:
            n, connection = self.unanswered.pop(), self.random.choice(reading)
            self.ledger.sent(n, content(n), connection, self.now)
            acknowledge(self.ledger, self.seqs[n], n, self.now + 0.01, connection)

    def end(self) -> dict[str, int]:
        while self.looking_away:
            self.look()
        self.ledger.settle(self.now + 5.0)
        self.ledger.settle(self.now + 60.0, final=True)
        audit(self.ledger, list(enumerate(self.stored, 1)), len(self.stored))
        return found(self.ledger)


@settings(deadline=None, max_examples=150)
@given(st.integers(0, 2**32), st.integers(20, 150))
def test_an_honest_server_is_never_accused(seed: int, steps: int) -> None:
    honest = Honest(Random(seed))
    for _ in range(steps):
        honest.step()
    assert honest.end() == {}
    assert honest.ledger.unsettled == 0


class Forgetful(Honest):
    """One message is delivered twice to somebody, and one that was acknowledged is not kept."""

    def __init__(self, random: Random) -> None:
        super().__init__(random)
        self.planted: dict[str, str] = {}

    def store(self, n: int, connection: int) -> None:
        others = sorted(self.connections - {connection} - self.looking_away.keys())
        if not others or len(self.stored) < 5:
            super().store(n, connection)
        elif "redelivered" not in self.planted:
            self.planted["redelivered"] = self.ledger.id_of(n)
            super().store(n, connection)
            deliver(self.ledger, others[0], self.seqs[n], n, self.now)
        elif "lost" not in self.planted:
            super().store(n, connection)
            self.planted["lost"] = self.ledger.id_of(n)
        else:
            super().store(n, connection)

    def send(self) -> None:
        before = set(self.planted)
        super().send()
        if "lost" in self.planted and "lost" not in before and self.stored[-1] in self.unanswered:
            del self.planted["lost"]  # nobody was told that it was kept

    def end(self) -> dict[str, int]:
        lost = self.planted.get("lost")
        kept = [(seq, n) for seq, n in enumerate(self.stored, 1) if self.ledger.id_of(n) != lost]
        while self.looking_away:
            self.look()
        self.ledger.settle(self.now + 60.0)
        audit(self.ledger, kept, len(self.stored))
        return found(self.ledger)


@settings(deadline=None, max_examples=100)
@given(st.integers(0, 2**32), st.integers(60, 150))
def test_what_a_faulty_server_did_is_found_and_nothing_else(seed: int, steps: int) -> None:
    forgetful = Forgetful(Random(seed))
    for _ in range(steps):
        forgetful.step()
    assert forgetful.end() == dict.fromkeys(forgetful.planted, 1)
    for kind, message in forgetful.planted.items():
        assert forgetful.ledger.findings.messages[Kind(kind)] == {message}
