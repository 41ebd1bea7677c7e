"""HTTP and WebSockets: aiohttp lives here and nowhere else."""
