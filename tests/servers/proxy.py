"""A TCP proxy that loses answers: what a broken network does to a commit."""

from __future__ import annotations

import asyncio
import contextlib

from tests.servers.cut import CutProxy


class LossyProxy(CutProxy):
    """Forwards to a port; once told to, it cuts a connection after passing on bytes that hold a word."""

    def __init__(self, port: int) -> None:
        super().__init__(port)
        self.cut_after: bytes | None = None
        """Pass a request that holds this on, keep the answer back and cut the connection; then forget it."""
        self.cuts = 0

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        back_reader, back_writer = await asyncio.open_connection("127.0.0.1", self.target)
        silent, answered = asyncio.Event(), asyncio.Event()
        tasks = [
            asyncio.ensure_future(self._requests(reader, back_writer, writer, silent, answered)),
            asyncio.ensure_future(self._answers(back_reader, writer, silent, answered)),
        ]
        self._tasks.update(tasks)
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            task.cancel()
        writer.transport.abort()
        back_writer.close()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._tasks.difference_update(tasks)

    async def _requests(
        self,
        reader: asyncio.StreamReader,
        back: asyncio.StreamWriter,
        client: asyncio.StreamWriter,
        silent: asyncio.Event,
        answered: asyncio.Event,
    ) -> None:
        while data := await reader.read(65536):
            lost = self.cut_after is not None and self.cut_after in data
            if lost:
                silent.set()
                self.cut_after = None
            back.write(data)
            await back.drain()
            if lost:
                self.cuts += 1
                client.transport.abort()
                await answered.wait()  # an end before might overtake what was sent
                return

    async def _answers(
        self, back: asyncio.StreamReader, client: asyncio.StreamWriter, silent: asyncio.Event, answered: asyncio.Event
    ) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await back.read(65536):
                if silent.is_set():
                    answered.set()
                    continue
                client.write(data)
                await client.drain()
