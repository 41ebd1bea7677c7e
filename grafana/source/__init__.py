"""What makes the generated files of this folder: dashboards and the alerts' proofs. ``python -m grafana.source``."""
