"""One process without sockets: hub, store, broker, metrics together. Imports core, metrics, store and broker."""
