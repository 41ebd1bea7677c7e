"""Every metric and the text that Prometheus reads; the home of prometheus_client. Imports ``core`` only.

``embed`` alone knows that library, too: its collector is for the registry of a host.
"""
