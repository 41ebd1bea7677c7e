#!/usr/bin/env bash
# hiredis 3.5.0 from PyPI, the reader of replies that redis-py takes where it is installed; nothing of this project.
#
# Guess: Reader.has_data() tells whether something of a reply has come and waits for its rest, and len() how many bytes
# of it. So where has_data() is False, the next byte from the server is the first of a reply.
#
# Seen: has_data() tells whether bytes are left that have not been looked at. Of an array or a push whose elements come
# one by one, all bytes have been looked at after each element, and it is False in the middle of the reply; where an
# element is cut, it is True. len() counts bytes that have been looked at as well, also when the reply is complete.
# Neither tells a reply that has begun from none.
#   after '>3\r\n': complete False, has_data False, len 4
#   after '$10\r\nssubscribe\r\n': complete False, has_data False, len 21
#   after '$4\r\nro': complete False, has_data True, len 27
#   after 'om\r\n': complete False, has_data False, len 31
#   after ':1\r\n': complete True, has_data False, len 35
#
# Exit status 0: it is still so. 1: it has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip -q --disable-pip-version-check install --no-compile hiredis==3.5.0
venv/bin/python - <<'PYTHON' | tee seen
import hiredis

NOTHING = object()
reader = hiredis.Reader(notEnoughData=NOTHING)
for piece in (b">3\r\n", b"$10\r\nssubscribe\r\n", b"$4\r\nro", b"om\r\n", b":1\r\n"):
    reader.feed(piece)
    complete = reader.gets() is not NOTHING
    shown = piece.decode().replace("\r\n", "\\r\\n")
    print(f"after '{shown}': complete {complete}, has_data {reader.has_data()}, len {reader.len()}")
PYTHON
diff - seen <<'EXPECTED'
after '>3\r\n': complete False, has_data False, len 4
after '$10\r\nssubscribe\r\n': complete False, has_data False, len 21
after '$4\r\nro': complete False, has_data True, len 27
after 'om\r\n': complete False, has_data False, len 31
after ':1\r\n': complete True, has_data False, len 35
EXPECTED
