"""``messaging-exporter observe`` as a process, on SQLite files of somebody else's chat."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import sys
from pathlib import Path

import yaml

from tests.servers.children import ends_with_the_tests
from tests.servers.ports import free_port

MAPPING = Path(__file__).parents[2] / "examples" / "fastapi_chat" / "mapping.yml"
TABLES = """
CREATE TABLE user (id INTEGER PRIMARY KEY, name TEXT, created_at TEXT);
CREATE TABLE conversation (id INTEGER PRIMARY KEY, created_at TEXT, total_messages INTEGER);
CREATE TABLE conversation_participant (conversation_id INTEGER, user_id INTEGER);
CREATE TABLE message (
    id INTEGER PRIMARY KEY, conversation_id INTEGER, sender_id INTEGER, content TEXT, created_at TEXT, deleted_at TEXT
);
INSERT INTO user (name, created_at) VALUES ('ann', datetime('now')), ('bob', datetime('now'));
"""


class Observer:
    """One process that observes these chats: by name, how many messages each has. One alone gets no name."""

    def __init__(self, folder: Path, chats: dict[str, int]) -> None:
        self.folder = folder
        self.chats = chats
        self.address = f"127.0.0.1:{free_port()}"
        self.process: asyncio.subprocess.Process | None = None
        folder.mkdir(parents=True, exist_ok=True)
        for name, messages in chats.items():
            with contextlib.closing(sqlite3.connect(self.database(name))) as connection, connection:
                connection.executescript(TABLES)
                connection.execute("INSERT INTO conversation VALUES (1, datetime('now'), ?)", (messages,))
                connection.executemany(
                    "INSERT INTO message VALUES (NULL, 1, ?, 'hello', datetime('now'), NULL)",
                    [(1 + number % 2,) for number in range(messages)],
                )

    def database(self, name: str) -> Path:
        """Where this chat keeps its messages."""
        return self.folder / f"{name}.db"

    async def start(self) -> None:
        """It listens soon after; what it says is in ``folder/log``."""
        described = [
            {"url": f"sqlite:///{self.database(name)}", "kind": "custom", "config-file": str(MAPPING)}
            for name in self.chats
        ]
        if len(described) == 1:
            flags = [word for key, value in described[0].items() for word in (f"--source.{key}", value)]
        else:
            config = self.folder / "observe.yml"
            named = [{"name": name, **source} for name, source in zip(self.chats, described, strict=True)]
            config.write_text(yaml.safe_dump({"sources": named}))
            flags = ["--config.file", str(config)]
        with (self.folder / "log").open("wb") as log:
            self.process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "exporter", "observe", *flags, "--data.dir", str(self.folder / "data"),
                "--web.listen-address", self.address, stdout=log, stderr=log,
                preexec_fn=ends_with_the_tests(),
            )  # fmt: skip

    async def kill(self) -> None:
        """At once."""
        if self.process is not None and self.process.returncode is None:
            self.process.kill()
            await self.process.wait()
