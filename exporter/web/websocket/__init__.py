"""WebSocket connections: the handshake, one connection, all of them. Imports what ``web`` may import."""
