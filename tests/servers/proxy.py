"""A TCP proxy that loses answers: what a broken network does to a commit."""

from __future__ import annotations

import asyncio
import contextlib


class LossyProxy:
    """Forwards to a port; once told to, it cuts a connection after passing on bytes that hold a word."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self.port = 0
        self.cut_after: bytes | None = None
        """Pass a request that holds this on, keep the answer back and cut the connection; then forget it."""
        self.refusing = False
        """Cut every new connection at once."""
        self.cuts = 0

    async def __aenter__(self) -> LossyProxy:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *exc: object) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.refusing:
            writer.transport.abort()
            return
        back_reader, back_writer = await asyncio.open_connection("127.0.0.1", self._target)
        silent = asyncio.Event()
        tasks = [
            asyncio.ensure_future(self._requests(reader, back_writer, writer, silent)),
            asyncio.ensure_future(self._answers(back_reader, writer, silent)),
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
                await asyncio.sleep(0.2)  # the server gets to read it before its side is closed too
                return

    async def _answers(self, back: asyncio.StreamReader, client: asyncio.StreamWriter, silent: asyncio.Event) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await back.read(65536):
                if silent.is_set():
                    continue
                client.write(data)
                await client.drain()


class MovingAddress:
    """An address that moves from one server to another: new connections go to ``target``, old ones stay."""

    def __init__(self, target: int) -> None:
        self.target = target
        self.port = 0
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> MovingAddress:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *exc: object) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            back_reader, back_writer = await asyncio.open_connection("127.0.0.1", self.target)
        except OSError:
            writer.transport.abort()
            return
        tasks = [
            asyncio.ensure_future(self._forward(reader, back_writer)),
            asyncio.ensure_future(self._forward(back_reader, writer)),
        ]
        self._tasks.update(tasks)
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._tasks.difference_update(tasks)
        writer.transport.abort()
        back_writer.transport.abort()

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
