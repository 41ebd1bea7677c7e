"""Tables, triggers and their migrations. Imports what ``store`` may import."""
