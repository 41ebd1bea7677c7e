"""The broker of a node that is alone: straight back, in order, at once."""

from __future__ import annotations

import pytest

from exporter.broker import Broker, Envelope, LocalBroker


def test_what_is_published_is_delivered_at_once_and_in_order() -> None:
    delivered: list[Envelope[str]] = []
    broker: Broker[str] = LocalBroker(delivered.append)
    envelopes: list[Envelope[str]] = [Envelope("c", bytes([n]), exclude="tab", received=1.5) for n in range(3)]
    for number, envelope in enumerate(envelopes):
        broker.publish(envelope)
        assert delivered[number] is envelope
    assert len(delivered) == 3


def test_what_is_published_during_a_delivery_is_delivered_too() -> None:
    delivered: list[bytes] = []

    def deliver(envelope: Envelope[str]) -> None:
        delivered.append(envelope.frame)
        if envelope.frame == b"first":
            broker.publish(Envelope("c", b"second"))

    broker = LocalBroker(deliver)
    broker.publish(Envelope("c", b"first"))
    assert delivered == [b"first", b"second"]


def test_a_node_that_is_alone_is_the_whole_cluster_and_always_within_reach() -> None:
    broker: Broker[str] = LocalBroker(lambda envelope: None)
    assert broker.alone
    assert broker.up


def test_an_envelope_is_for_everybody_unless_it_says_otherwise_and_does_not_change() -> None:
    envelope: Envelope[str] = Envelope("c", b"x")
    assert (envelope.exclude, envelope.exclude_user, envelope.received) == (None, None, None)
    with pytest.raises(AttributeError):
        envelope.frame = b"y"
