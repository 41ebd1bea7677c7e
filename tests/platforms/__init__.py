"""Fresh Debian roots, in which a new user follows the documents: ``make platforms``."""
