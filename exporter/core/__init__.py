"""Events, state and the wire, pure: no asyncio, no clock, no I/O. Imports nothing of ours."""
