"""What makes the generated files of this folder: dashboards and the alerts' proofs. Run ``python -m grafana.source``."""
