"""A TCP proxy that can be cut: a network between a node and its broker that is partitioned, or leads elsewhere."""

from __future__ import annotations

import asyncio
import contextlib


class CutProxy:
    """Forwards to ``target``. When cut, nothing passes and nobody is told; ``refusing``: connections end at once."""

    def __init__(self, target: int) -> None:
        self.target = target
        self.port = 0
        self.refusing = False
        self._passing = asyncio.Event()
        self._passing.set()
        self._server: asyncio.Server | None = None
        self._pairs: set[tuple[asyncio.StreamWriter, asyncio.StreamWriter]] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> CutProxy:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *exc: object) -> None:
        assert self._server is not None
        self._server.close()
        self.drop()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def cut(self) -> None:
        """From now on nothing passes; connections stand."""
        self._passing.clear()

    def mend(self) -> None:
        """What waited passes."""
        self._passing.set()

    def drop(self) -> None:
        """End all connections."""
        for pair in list(self._pairs):
            for writer in pair:
                writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.refusing:
            writer.transport.abort()
            return
        await self._passing.wait()
        try:
            back_reader, back_writer = await asyncio.open_connection("127.0.0.1", self.target)
        except OSError:
            writer.transport.abort()
            return
        pair = (writer, back_writer)
        self._pairs.add(pair)
        tasks = [
            asyncio.ensure_future(self._pass(reader, back_writer)),
            asyncio.ensure_future(self._pass(back_reader, writer)),
        ]
        self._tasks.update(tasks)
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            task.cancel()
        self._pairs.discard(pair)
        for one in pair:
            one.transport.abort()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._tasks.difference_update(tasks)

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(262_144):
                await self._passing.wait()
                writer.write(data)
                await writer.drain()
