"""One process without sockets: hub, store, broker and metrics together. Imports ``core``, ``metrics``, ``store``, ``broker``."""
