"""Tokens: who is asking. Knows no aiohttp. Imports ``core`` and ``settings``."""
