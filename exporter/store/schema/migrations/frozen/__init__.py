"""What revisions did, word for word as it was released; never edited. The living triggers are a folder above."""
