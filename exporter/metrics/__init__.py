"""Every metric and the text that Prometheus reads; the only home of prometheus_client. Imports ``core`` only."""
