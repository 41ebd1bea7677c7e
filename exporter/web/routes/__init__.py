"""One module per group of HTTP routes. Imports what ``web`` may import."""
