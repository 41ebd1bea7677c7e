"""Real servers that the tests start on free ports and stop at the end."""
