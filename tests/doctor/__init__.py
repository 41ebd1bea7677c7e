"""Tests of exporter/doctor/."""
