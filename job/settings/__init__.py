"""Reads environment and arguments once, checks all of it, freezes it."""

from job.settings.command_options import ServeOptions, SimulateOptions, load_options, options_help
from job.settings.gateway import Pushgateway
from job.settings.loader import help_text, load
from job.settings.option import PREFIX
from job.settings.options import OPTIONS, Executor, LogFormat, LogResults, NewOrigin, Order, Publish, Server, Settings

__all__ = [
    "OPTIONS",
    "PREFIX",
    "Executor",
    "LogFormat",
    "LogResults",
    "NewOrigin",
    "Order",
    "Publish",
    "Pushgateway",
    "ServeOptions",
    "Server",
    "Settings",
    "SimulateOptions",
    "help_text",
    "load",
    "load_options",
    "options_help",
]
