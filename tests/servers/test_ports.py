"""A port of the tests' own is nobody else's."""

from __future__ import annotations

import socket

import pytest

from tests.servers.ports import free_port


def test_a_port_is_kept_for_whoever_is_told_of_it_before_and_after_a_server_listens_there() -> None:
    address = ("127.0.0.1", free_port())
    for _ in range(2):
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(address)
        with socket.socket() as other, pytest.raises(OSError, match="in use"):
            other.bind(address)
        with socket.create_server(address), socket.create_connection(address):
            pass
