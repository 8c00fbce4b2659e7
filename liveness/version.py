"""The release, in the one place that both setup.py and the program read."""

__version__ = "0.1.0"
