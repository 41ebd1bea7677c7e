"""``python -m exporter`` is ``messaging-exporter``."""

from exporter.cli import main

if __name__ == "__main__":
    main()
