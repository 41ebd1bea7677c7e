"""The drive's own count: what people did and what became of it, kept beside the servers and never read from them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from typing import Any

WINDOWS = (1, 7, 30)


@dataclass(eq=False)
class Said:
    """One message that a person meant others to read. It exists as long as somebody keeps it."""

    conversation: str | None
    """None: it makes no conversation (a note to oneself, a private word within a room)."""
    sender: str
    day: date
    keepers: set[str] = field(default_factory=set)
    """XMPP: the archives that hold a copy. Empty: gone."""
    gone: bool = False
    in_room: bool = False
    sender_room: str = ""
    """Matrix: where it was said."""


class Ledger:
    """People, conversations and messages, as the drive made them."""

    def __init__(self) -> None:
        self.day = date.min
        """The day on which things are done now."""
        self.said: list[Said] = []
        self.people: set[str] = set()
        self.rooms: set[str] = set()
        """Rooms that exist whether or not anybody wrote there."""
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        """What a special case was and what it counts."""
        if text not in self.notes:
            self.notes.append(text)

    def say(self, conversation: str | None, sender: str, keepers: Iterable[str] = (), in_room: bool = False) -> Said:
        """A message was sent, and the server accepted it."""
        said = Said(conversation, sender, self.day, set(keepers), in_room=in_room)
        self.said.append(said)
        return said

    def close_room(self, room: str) -> None:
        """A room went, and its messages with it."""
        self.rooms.discard(room)
        for said in self.said:
            if said.conversation == room and said.in_room:
                said.gone = True

    def unregister(self, person: str) -> None:
        """An account was deleted with its archive; the copies of others stay."""
        self.people.discard(person)
        for said in self.said:
            if person in said.keepers:
                said.keepers.discard(person)
                said.gone = said.gone or not said.keepers

    def purge(self, before: date) -> None:
        """Messages of the days before this one were deleted."""
        for said in self.said:
            if said.day < before:
                said.gone = True

    def truth(self, now: datetime) -> dict[str, Any]:
        """Every figure at this moment. ``writers`` tells rooms and chats apart for servers that do not."""
        here = [said for said in self.said if not said.gone]
        pairs = {said.conversation for said in here if said.conversation is not None}

        def writers(entries: Iterable[Said]) -> dict[str, int]:
            entries = [*entries]
            return {
                f"{days}d": len({s.sender for s in entries if s.day > now.date() - timedelta(days=days)} & self.people)
                for days in WINDOWS
            }

        return {
            "now": now.isoformat().replace("+00:00", "Z"),
            "messages": len(here),
            "messages_today": sum(said.day == now.date() for said in here),
            "conversations": len(pairs | self.rooms),
            "registered_users": len(self.people),
            "active_users": writers(self.writings()),
            "active_users_outside_rooms": writers(said for said in self.writings() if not said.in_room),
            "special_cases": self.notes,
        }

    def writings(self) -> Iterable[Said]:
        """What shows that somebody wrote: of XMPP what is still stored."""
        return [said for said in self.said if not said.gone]
