"""The generated documents are in step with the code, and the written ones keep their form."""
