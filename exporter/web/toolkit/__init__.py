"""The file of ``--web.config.file``, as in the Prometheus exporter toolkit. Imports ``core`` and ``settings``."""
