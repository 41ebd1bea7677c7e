"""Databases that the messaging servers of other people made, with a count of what their people did."""
