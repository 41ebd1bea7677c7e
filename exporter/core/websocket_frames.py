"""WebSocket frames (RFC 6455 section 5): bytes to messages, payloads to bytes. Knows no socket and no protocol above.

The server's side only, without extensions. It reads what a socket gave, however it was cut, and never holds more
than one message of the allowed size. A violation ends the reading: ``error`` then holds the close code and the
words. Why not a library: aiohttp's reader accepts unmasked frames and hands each message through a queue to a
task that has to wake up, which costs more than everything else that happens to a small frame. Its test holds this one
against the ``websockets`` library, frame by frame.
"""

from __future__ import annotations

import codecs
from enum import IntEnum
from typing import Final

TEXT: Final = 0x1
BINARY: Final = 0x2
CLOSE: Final = 0x8
PING: Final = 0x9
PONG: Final = 0xA
_CONTINUATION: Final = 0x0
_ENDLESS: Final = 2**64  # no frame is that long
_DATA: Final = frozenset((_CONTINUATION, TEXT, BINARY))
_CONTROL: Final = frozenset((CLOSE, PING, PONG))
_MAX_CONTROL: Final = 125
# The rate limit counts messages, and an empty fragment is within every size: without this, a flood of them is free.
# A message of the default limit in pieces of 64 bytes, the smallest that conformance suites send, is within it.
MAX_FRAGMENTS: Final = 1_024
NOT_UTF8: Final = "text is not UTF-8"


class Violation(IntEnum):
    """Close codes for what may not be sent (RFC 6455 section 7.4.1)."""

    PROTOCOL = 1002
    INVALID_DATA = 1007
    TOO_LARGE = 1009


Incoming = tuple[int, bytes]
_integer: Final = int.from_bytes  # looked up for each frame it would be a fifth of reading it


class FrameReader:
    """Reads one connection. ``feed`` returns whole messages and control frames as (opcode, payload), in order.

    After a violation ``error`` is set and no text comes any more. An oversized message is read and thrown away, and
    control frames behind it are still returned, so that the peer's answer to the close is seen. Text that comes in
    fragments fails with the first of them that cannot be UTF-8; whole messages are for the caller to look at.
    """

    __slots__ = (
        "_buffer",
        "_checked",
        "_fragments",
        "_limit",
        "_need",
        "_opcode",
        "_pieces",
        "_skip",
        "_unfinished",
        "error",
    )

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._buffer: bytearray | None = None  # an unfinished frame
        self._need = 0  # bytes that an unfinished frame needs before another look is worth while
        self._fragments: bytearray | None = None  # an unfinished message
        self._pieces = 0  # of the unfinished message
        self._checked = 0  # so many bytes of it are UTF-8
        self._unfinished = False  # fragments of a message that failed are still to come
        self._opcode = TEXT
        self._skip = 0
        self.error: tuple[int, str] | None = None

    @property
    def is_failed(self) -> bool:
        """Nothing behind a broken frame can be read, not even the peer's close frame."""
        return self._skip >= _ENDLESS

    @property
    def is_skipping(self) -> bool:
        """More of the message that failed is still to come, as far as its frames say."""
        return not self.is_failed and (self._skip > 0 or self._unfinished)

    def feed(self, data: bytes) -> list[Incoming]:
        """Everything that these bytes complete."""
        if self._skip:
            skipped = min(self._skip, len(data))
            self._skip -= 0 if self.is_failed else skipped
            data = data[skipped:]
        if self._buffer is not None:
            self._buffer += data
            if len(self._buffer) < self._need:
                return []
            data = bytes(self._buffer)
            self._buffer = None
        messages: list[Incoming] = []
        position, end = 0, len(data)
        while position < end:
            # Nearly every frame is a whole, short, masked text: read here, without two calls, in half the time.
            if data[position] == 0x81 and end - position > 6 and self._fragments is None:
                size = data[position + 1] - 0x80
                stop = position + 6 + size
                if 0 <= size < 126 and size <= self._limit and stop <= end:
                    keys = (data[position + 2 : position + 6] * ((size >> 2) + 1))[:size]
                    plain = _integer(data[position + 6 : stop], "little") ^ _integer(keys, "little")
                    messages.append((TEXT, plain.to_bytes(size, "little")))
                    position = stop
                    continue
            length = self._frame(data, position, end, messages)
            if length < 0:  # not whole yet, or never
                break
            position += length
        return messages

    def _frame(self, data: bytes, start: int, end: int, messages: list[Incoming]) -> int:
        """Read one frame: its length in bytes, or -1 when the reading ends here for now."""
        if end - start < 2:
            return self._wait(data, start, 2)
        first, second = data[start], data[start + 1]
        opcode = first & 0x0F
        # 0x80: FIN alone, no reserved bit; 0x80 of the second byte: masked, as a client must (section 5.1)
        if not second & 0x80:
            return self._violation("frame is not masked")
        if first & 0x70 or (opcode not in _DATA and opcode not in _CONTROL):
            return self._violation("reserved bits or opcode")
        size = second & 0x7F
        head = start + 6
        if size == 126:
            head += 2
            if end < start + 4:
                return self._wait(data, start, 4)
            size = int.from_bytes(data[start + 2 : start + 4], "big")
        elif size == 127:
            head += 8
            if end < start + 10:
                return self._wait(data, start, 10)
            size = int.from_bytes(data[start + 2 : start + 10], "big")
        if opcode in _CONTROL and (size > _MAX_CONTROL or not first & 0x80):
            return self._violation("control frame is fragmented or too long")
        if opcode in _DATA and size + (len(self._fragments) if self._fragments is not None else 0) > self._limit:
            return self._skip_frame(first, head + size - start, head + size - end)
        stop = head + size
        if end < stop:
            return self._wait(data, start, stop - start)
        payload = _unmask(data[head:stop], data[head - 4 : head], size)
        if first == 0x81 and self._fragments is None:
            messages.append((TEXT, payload))
            return stop - start
        if opcode in _CONTROL:
            messages.append((opcode, payload))
            return stop - start
        return stop - start if self._data(first, payload, messages) else -1

    def _data(self, first: int, payload: bytes, messages: list[Incoming]) -> bool:
        """A data frame that is not a whole text message: binary or fragmented (section 5.4)."""
        opcode, final, started = first & 0x0F, bool(first & 0x80), self._fragments
        if (opcode == _CONTINUATION) != (started is not None):
            self._violation("continuation without a start, or a start within a message")
            return False
        if started is None and final:
            messages.append((opcode, payload))
            return True
        if started is None:
            self._opcode, self._pieces, self._checked = opcode, 0, 0
            self._fragments = started = bytearray()
        started += payload
        self._pieces += 1
        if self._pieces > MAX_FRAGMENTS:
            self._skip_frame(first, 0, 0, f"message has more than {MAX_FRAGMENTS} fragments")
        elif self._opcode == TEXT and not self._is_utf8(started, final):
            self.error = self.error or (Violation.INVALID_DATA, NOT_UTF8)
            self._skip_frame(first, 0, 0)
        elif final:
            messages.append((self._opcode, bytes(started)))
            self._fragments = None
        return True

    def _is_utf8(self, text: bytearray, final: bool) -> bool:
        """Can this be the beginning of UTF-8, or all of it? Each byte is looked at once (and up to three again)."""
        try:
            _, length = codecs.utf_8_decode(text[self._checked :], "strict", final)
        except UnicodeDecodeError:
            return False
        self._checked += length
        return True

    def _wait(self, data: bytes, start: int, need: int) -> int:
        self._buffer = bytearray(data[start:])
        self._need = need
        return -1

    def _violation(self, text: str) -> int:
        self.error = self.error or (Violation.PROTOCOL, text)
        self._skip = _ENDLESS
        return -1

    def _skip_frame(self, first: int, length: int, missing: int, words: str = "frame is larger than {} bytes") -> int:
        """Pass over this frame and every data frame after it, so that the peer's close frame is still seen."""
        self.error = self.error or (Violation.TOO_LARGE, words.format(self._limit))
        self._fragments = None
        self._unfinished = not first & 0x80
        self._limit = -1
        if missing <= 0:
            return length
        self._skip = missing
        return -1


def is_utf8(payload: bytes) -> bool:
    """Is a whole message UTF-8?"""
    try:
        payload.decode()
    except UnicodeDecodeError:
        return False
    return True


def _unmask(payload: bytes, mask: bytes, size: int) -> bytes:
    """XOR with the repeated mask (section 5.3) as two long integers: 0.4 µs for 60 bytes, linear."""
    keys = mask * ((size + 3) // 4)
    return (int.from_bytes(payload, "little") ^ int.from_bytes(keys[:size], "little")).to_bytes(size, "little")


def frame(opcode: int, payload: bytes) -> bytes:
    """One unmasked frame, as a server sends it (section 5.1)."""
    size = len(payload)
    if size < 126:
        return bytes((0x80 | opcode, size)) + payload
    if size < 65_536:
        return bytes((0x80 | opcode, 126)) + size.to_bytes(2, "big") + payload
    return bytes((0x80 | opcode, 127)) + size.to_bytes(8, "big") + payload


_SHORT_TEXT: Final = [bytes((0x80 | TEXT, size)) for size in range(126)]  # made once: nearly every frame has one


def text_frame(payload: bytes) -> bytes:
    """A whole text message."""
    size = len(payload)
    return _SHORT_TEXT[size] + payload if size < 126 else frame(TEXT, payload)


def count_beginning(frames: bytes, beginning: bytes) -> int:
    """How many payloads begin so, of frames that the server has made: they are whole and not masked (section 5.2)."""
    count = position = 0
    while position < len(frames):
        size, head = frames[position + 1], 2
        if size > 125:
            head = 4 if size == 126 else 10
            size = int.from_bytes(frames[position + 2 : position + head], "big")
        count += frames.startswith(beginning, position + head)
        position += head + size
    return count


def close_frame(code: int, reason: str = "") -> bytes:
    """A close frame; the reason is cut to what fits (section 5.5.1)."""
    words = reason.encode()[: _MAX_CONTROL - 2].decode(errors="ignore")  # not in the middle of a character
    return frame(CLOSE, code.to_bytes(2, "big") + words.encode())


def close_code(payload: bytes) -> int | None:
    """The code in a peer's close frame: None for none, 1002 for one that nobody may send (section 7.4)."""
    if not payload:
        return None
    code = int.from_bytes(payload[:2], "big")
    # 1012 to 1014 have been registered since: restart, try again, bad gateway
    allowed = (1000 <= code < 1015 and code not in (1004, 1005, 1006)) or 3000 <= code < 5000
    if len(payload) < 2 or not allowed:
        return int(Violation.PROTOCOL)
    try:
        payload[2:].decode()
    except UnicodeDecodeError:
        return int(Violation.PROTOCOL)
    return code
