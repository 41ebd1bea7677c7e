"""One client of the server: its connection, its frames, its HTTP routes. Imports ``core``."""
