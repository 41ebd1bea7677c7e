"""The dashboards drawn with Grafana's own components, from a real Prometheus' answers, in good and in bad times."""
