"""Reads environment and arguments once, checks all of it, freezes it."""

from job.settings.gateway import Gateway
from job.settings.reader import help_text, load
from job.settings.row import PREFIX
from job.settings.table import ROWS, Executor, LogFormat, LogResults, NewOrigin, Order, Publish, Server, Settings
from job.settings.tools import ServeOptions, SimulateOptions, load_options, options_help
from job.settings.values import BUCKETS

__all__ = [
    "BUCKETS",
    "PREFIX",
    "ROWS",
    "Executor",
    "Gateway",
    "LogFormat",
    "LogResults",
    "NewOrigin",
    "Order",
    "Publish",
    "ServeOptions",
    "Server",
    "Settings",
    "SimulateOptions",
    "help_text",
    "load",
    "load_options",
    "options_help",
]
