"""What differs between SQLite and PostgreSQL. Imports what ``store`` may import."""
