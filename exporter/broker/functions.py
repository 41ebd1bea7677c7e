"""The functions in the server: their text, their names, and commands that call them. Knows no connection.

The library's name holds a digest of its text: two releases whose functions differ run side by side, and loading it
again is refused by the server, which is then as it should be.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from functools import cache
from importlib.resources import files
from itertools import chain
from typing import Any, Final

import msgspec

from exporter.broker.connection import command
from exporter.core.hub import Hub

SLICE: Final = 500
"""Entries that one call may change: 2 to 4 ms of the server's time."""
BUDGET: Final = 300
"""Entries of a dead node that one beat takes out: 2 ms, 5 ms at most."""

_WORDS: Final = ("register", "apply", "beat", "retire", "figures", "nodes", "check")


@cache
def library() -> tuple[str, str]:
    """The library's name and its text, ready to be loaded."""
    source = files("exporter.broker").joinpath("functions.lua").read_text()
    name = f"messaging_{hashlib.sha256(source.encode()).hexdigest()[:12]}"
    return name, f"#!lua name={name}\n" + source.replace("'@_", f"'{name}_")


class Figures(msgspec.Struct, frozen=True, gc=False):
    """The cluster as the server has it, in one moment of its clock.

    ``time`` is Unix microseconds. ``dying``, ``syncing``: incarnations whose entries leave, or are not all there.
    ``unsettled`` is for how many more milliseconds entries of nodes may be missing that have not come back.
    ``came`` is how many incarnations have registered so far. ``purged`` entries left with this beat.
    """

    time: int
    nodes: int
    connections: int
    users: int
    conversations: int
    participants: int
    typing: int
    dying: int
    syncing: int
    unsettled: int
    came: int
    purged: int = 0

    @property
    def settling(self) -> int:
        """0: the figures are final."""
        return self.dying + self.syncing + (self.unsettled > 0)


def figures(reply: Sequence[Any]) -> Figures:
    """The answer of ``register``, ``beat`` and ``figures``."""
    return Figures(*map(int, reply))


class Functions:
    """Packed calls for one cluster. Times in seconds here, in milliseconds there."""

    def __init__(self, cluster: str) -> None:
        self.root = f"messaging:{{{cluster}}}"
        name, self.text = library()
        self._names = {word: f"{name}_{word}" for word in _WORDS}

    def register(self, inc: str, lease: float, connections: int, label: str, old: Sequence[str]) -> bytes:
        """An incarnation begins and takes over what ``old`` ones held; ``label`` is what ``nodes`` says of it."""
        return self._call("register", inc, _ms(lease), connections, label, *old)

    def apply(
        self, inc: str, lease: float, seq: int, connections: int, complete: bool, changes: Sequence[str]
    ) -> bytes:
        """Change what an incarnation holds: ``+`` or ``-``, kind, entry."""
        return self._call("apply", inc, _ms(lease), seq, connections, int(complete), *changes)

    def beat(self, inc: str, lease: float, seq: int, connections: int, budget: int = BUDGET) -> bytes:
        """An incarnation lives; the dead are buried."""
        return self._call("beat", inc, _ms(lease), seq, connections, budget)

    def retire(self, inc: str, budget: int = BUDGET) -> bytes:
        """An incarnation ends."""
        return self._call("retire", inc, budget)

    def nodes(self) -> bytes:
        """For how many more milliseconds nodes may be missing; then incarnation and label of each living node."""
        return command("FCALL_RO", self._names["nodes"], 1, self.root)

    def check(self) -> tuple[str | int, ...]:
        """Which rights the user lacks, as names of commands; not packed."""
        return ("FCALL_RO", self._names["check"], 1, self.root)

    def look(self, lease: float) -> tuple[str | int, ...]:
        """Nobody's beat: has the server look at its policy, and remember a wrong one; not packed."""
        return ("FCALL", self._names["beat"], 1, self.root, "", _ms(lease), 0, 0, 0)

    def participants(self, conversation: str) -> bytes:
        """Users who take part in a conversation, on all nodes."""
        return command("SMEMBERS", f"{self.root}:m:{conversation}")

    def typists(self, conversation: str) -> bytes:
        """Users who type in a conversation, on all nodes."""
        return command("SMEMBERS", f"{self.root}:y:{conversation}")

    def channel(self, conversation: str) -> str:
        """Where everybody listens who holds a conversation."""
        return f"{self.root}:c:{conversation}"

    @property
    def nodes_channel(self) -> str:
        """Where all nodes listen."""
        return f"{self.root}:a"

    def _call(self, function: str, *arguments: str | int) -> bytes:
        return command("FCALL", self._names[function], 1, self.root, *arguments)


def _ms(seconds: float) -> int:
    return round(seconds * 1000)


def pair(conversation: str, user: str) -> str:
    """A participant as an entry; neither name can hold a line feed."""
    return f"{conversation}\n{user}"


def entries(hub: Hub[Any]) -> tuple[int, Iterator[str]]:
    """How much a node holds now, and the entry of each; there may be 100,000, so they are made one by one.

    What is on its way to be told as a change is told twice then, which the server passes over.
    """
    users, conversations = list(hub.users), list(hub.conversations)
    participants, typing = list(hub.participants), list(hub.typing)
    made = chain(
        (f"u{user}" for user in users),
        (f"c{conversation}" for conversation in conversations),
        (f"p{pair(*key)}" for key in participants),
        (f"t{pair(*key)}" for key in typing),
    )
    return len(users) + len(conversations) + len(participants) + len(typing), made
