"""Reads command line, environment and secret files once, checks all settings and freezes them."""

from job.settings.checks import HeadersFile, header_secrets, report_faults
from job.settings.command_options import Arguments, Command, ServeOptions, SimulateOptions, parse_arguments
from job.settings.loader import load, load_options
from job.settings.options import (
    OPTIONS,
    Executor,
    LogFormat,
    LogLevel,
    LogResults,
    NewOrigin,
    Order,
    Publish,
    Server,
    Settings,
)
from job.settings.parsers import Pushgateway

__all__ = [
    "OPTIONS",
    "Arguments",
    "Command",
    "Executor",
    "HeadersFile",
    "LogFormat",
    "LogLevel",
    "LogResults",
    "NewOrigin",
    "Order",
    "Publish",
    "Pushgateway",
    "ServeOptions",
    "Server",
    "Settings",
    "SimulateOptions",
    "header_secrets",
    "load",
    "load_options",
    "parse_arguments",
    "report_faults",
]
