"""Several processes on one port: the supervisor. May import core, settings, and of web what knows no aiohttp.

It starts, watches and replaces workers, and stays small. Only ``worker`` is a server, and may import all but cli.

The supervisor binds all sockets and accepts on none. Every worker accepts on the one shared socket, so a connection
goes to a worker that runs: one that is stopped, frozen or busy does not come to fetch it. (With SO_REUSEPORT each would
have a queue of its own, and the kernel would go on filling a stopped worker's.)
"""
