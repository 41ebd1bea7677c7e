"""Who there is and what they do. Imports ``core`` and ``simulate.client``."""
