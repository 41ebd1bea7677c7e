"""What was promised, what was seen, and what is wrong. Imports nothing of ours."""
