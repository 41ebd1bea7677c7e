"""HTTP and WebSockets: the server, and all that it answers.

Beside it only clients (``simulate``, ``demo``, ``doctor``) and ``embed.aiohttp_app`` know aiohttp.
"""
