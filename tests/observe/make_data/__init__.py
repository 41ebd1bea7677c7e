"""Databases of messaging servers that other people run, made by these servers, with a count of what their people did."""
