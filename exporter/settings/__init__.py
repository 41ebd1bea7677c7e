"""What may be set, and reading it. Imports ``core`` only."""
