"""flagjob: a list of ids x a URL template, downloaded into whole, accepted files."""

__version__ = "0.1.0"
