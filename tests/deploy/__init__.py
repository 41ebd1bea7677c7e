"""What is in deploy/: checked as far as it goes without a cluster or a container engine, and run where it can be."""
