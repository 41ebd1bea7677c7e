"""Another program that writes plain SQL, for ever, until somebody kills it: ``python -m tests.writers URL SEED NOON``.

It does whatever the schema allows, in transactions of random size of which some are rolled back, wholly or to
a savepoint, and takes errors (somebody else was first, a deadlock) as a reason to go on.
"""

from __future__ import annotations

import random
import sqlite3
import sys
import time
from datetime import datetime, timedelta
from typing import Any

CONVERSATIONS = [f"c{i}" for i in range(6)]
USERS = [f"u{i}" for i in range(12)]


class Writer:
    """Statements with random values; ``run`` executes one."""

    def __init__(self, seed: str, midnight: datetime) -> None:
        self.random = random.Random(seed)
        self.midnight = midnight
        self.name = seed
        self.count = 0

    def time(self) -> str:
        r = self.random
        spread = r.choice([timedelta(seconds=3), timedelta(days=3), timedelta(days=40)])
        at = self.midnight + spread * r.uniform(-1, 1)
        return at.strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + r.choice(["Z", "Z", "+02:00", "-07:00"])

    def statement(self) -> str:
        r = self.random
        one, other, user = r.choice(CONVERSATIONS), r.choice(CONVERSATIONS), r.choice(USERS)
        self.count += 1
        after = f"(SELECT last_seq FROM conversations WHERE id = '{one}')"
        some = f"conversation_id = '{one}' AND seq > {after} - {r.randint(1, 6)}"
        inserts = ", ".join(
            f"('{one}', {after} + {i}, '{r.choice(USERS)}', '{self.name}-{self.count}-{i}', 'x', '{self.time()}')"
            for i in range(1, r.choice([1, 1, 1, 2, 10]) + 1)
        )
        insert = f"INSERT INTO messages (conversation_id, seq, sender_id, client_id, body, sent_at) VALUES {inserts}"
        across = (
            "INSERT INTO messages (conversation_id, seq, sender_id, sent_at)"
            f" SELECT id, last_seq + 1, '{user}', '{self.time()}' FROM conversations"
        )
        choices: list[tuple[int, str]] = [
            (30, insert),
            (6, across),
            (4, insert + " ON CONFLICT DO NOTHING"),
            (8, f"DELETE FROM messages WHERE {some}"),
            (1, f"DELETE FROM messages WHERE sender_id = '{user}'"),
            (2, f"DELETE FROM conversations WHERE id = '{one}'"),
            (6, f"INSERT INTO conversations (id, created_at) VALUES ('{one}', '{self.time()}') ON CONFLICT DO NOTHING"),
            (2, f"DELETE FROM users WHERE id = '{user}'"),
            (8, f"INSERT INTO users (id, created_at) VALUES ('{user}', '{self.time()}') ON CONFLICT DO NOTHING"),
            (5, f"UPDATE messages SET conversation_id = '{other}', seq = seq + {r.randint(1, 500)} WHERE {some}"),
            (5, f"UPDATE messages SET sent_at = '{self.time()}' WHERE {some}"),
            (3, f"UPDATE messages SET sender_id = '{user}', body = 'edited' WHERE {some}"),
            (2, f"UPDATE messages SET seq = seq + 1000 WHERE {some}"),
            (1, f"UPDATE users SET last_active_on = '{self.time()[:10]}' WHERE id = '{user}'"),
            (1, f"UPDATE users SET created_at = '{self.time()}' WHERE id = '{user}'"),
            (1, f"UPDATE conversations SET created_at = '{self.time()}' WHERE id = '{one}'"),
        ]
        weights, statements = zip(*choices, strict=True)
        return r.choices(statements, weights)[0]

    def transaction(self) -> list[str]:
        r = self.random
        statements = [self.statement() for _ in range(r.choice([1, 1, 2, 4]))]
        if r.random() < 0.2:
            statements += ["SAVEPOINT s", self.statement(), "ROLLBACK TO SAVEPOINT s", self.statement()]
        return [*statements, "ROLLBACK" if r.random() < 0.15 else "COMMIT"]


def write_sqlite(path: str, writer: Writer) -> None:
    connection = sqlite3.connect(path, timeout=30, isolation_level=None)
    while True:
        try:
            connection.execute("BEGIN IMMEDIATE")
            for statement in writer.transaction():
                connection.execute(statement)
        except sqlite3.Error:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
        time.sleep(0.002)  # SQLite's waiting is not fair: let the others have the lock too


def write_postgresql(url: str, writer: Writer) -> None:
    import asyncio

    import asyncpg

    async def run() -> Any:
        connection = await asyncpg.connect(url, server_settings={"timezone": writer.random.choice(ZONES)})
        while True:
            try:
                await connection.execute("BEGIN")
                for statement in writer.transaction():
                    await connection.execute(statement)
            except asyncpg.PostgresError:
                await connection.execute("ROLLBACK")

    asyncio.run(run())


ZONES = ["UTC", "Pacific/Auckland", "America/Los_Angeles"]

if __name__ == "__main__":
    _, url, seed, midnight = sys.argv
    writer = Writer(seed, datetime.fromisoformat(midnight))
    if url.startswith("sqlite:///"):
        write_sqlite(url.removeprefix("sqlite:///"), writer)
    else:
        write_postgresql(url, writer)
