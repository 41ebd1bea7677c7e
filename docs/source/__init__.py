"""What makes the generated documents and manifests out of the code: ``python -m docs.source``, or ``make docs``."""
