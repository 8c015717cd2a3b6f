"""A machine without a thread for a name look-up, or without memory."""

import errno
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pycurl
import pytest
import requests
from bodies import MemoryBody

from job.transport import CurlAdapter, NameResolutionError
from job.transport.handle import Handle, Sockets

MORE_THAN_THERE_IS = 1 << 47
"""Bytes of a stack; no process has that much room, so no thread starts."""
REQUEST = requests.Request("GET", "http://no..name/").prepare()
"""For a name that no resolver accepts."""


@contextmanager
def no_threads() -> Iterator[None]:
    usual = threading.stack_size(MORE_THAN_THERE_IS)
    try:
        yield
    finally:
        threading.stack_size(usual)


def failed_look_up() -> Exception:
    """Give how a request ends whose name has no address."""
    adapter = CurlAdapter(new_body=MemoryBody, max_bytes=1)
    with pytest.raises(OSError) as caught:
        adapter.send(REQUEST)
    adapter.close()
    return caught.value


def late_look_up() -> Exception:
    """Give what it means that a transfer timed out before there was an address."""
    error = pycurl.error(pycurl.E_OPERATION_TIMEDOUT, "Resolving timed out")
    return Handle(Sockets(), 1).map_error(error, REQUEST)


def assert_shortage_of(what: int, error: Exception) -> None:
    assert (isinstance(error, requests.RequestException), getattr(error, "errno", None)) == (False, what)


def assert_shortage_of_threads(error: Exception) -> None:
    assert_shortage_of(errno.EAGAIN, error)
    assert "can't start new thread" in str(error)
    assert isinstance(error.__cause__, RuntimeError)


def test_a_machine_without_threads_is_not_the_networks_fault() -> None:
    """A look-up that fails, or takes too long, while no thread can be started is an OSError of this machine."""
    with no_threads():
        failed, late = failed_look_up(), late_look_up()
    assert_shortage_of_threads(failed)
    assert_shortage_of_threads(late)


def test_with_threads_it_is_the_network() -> None:
    """The same look-ups on a machine with threads left say that the name has no address, and that time is up."""
    assert type(failed_look_up()) is NameResolutionError
    assert type(late_look_up()) is requests.ConnectTimeout


def test_out_of_memory_is_not_the_networks_fault() -> None:
    """What libcurl has no memory for is an OSError of this machine, even if there is enough a moment later."""
    error = Handle(Sockets(), 1).map_error(pycurl.error(pycurl.E_OUT_OF_MEMORY, "Out of memory"), REQUEST)
    assert_shortage_of(errno.ENOMEM, error)
