"""Minimal, fair servers to compare with: what a good programmer would write first with each library.

Each takes a port, joins every connection to the room named in its query, answers ``joined``, and hands each text
frame to the other members of the room. Compression off; uvloop where the library runs on asyncio.
"""
