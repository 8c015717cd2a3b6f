"""The transport on a machine that has no thread left for a name look-up, or no memory."""

import errno
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pycurl
import pytest
import requests
from bodies import MemoryBody
from test_transport import Client, GreenletClient

from job.transport import NameResolutionError
from job.transport.handle import BlockingTransfers, Handle
from job.transport.transfer import Transfer

MORE_THAN_THERE_IS = 1 << 47
"""Bytes of a stack; no process can reserve so much, so no thread starts."""


@contextmanager
def no_threads() -> Iterator[None]:
    usual = threading.stack_size(MORE_THAN_THERE_IS)
    try:
        yield
    finally:
        threading.stack_size(usual)


@pytest.fixture(params=[Client, GreenletClient])
def client(request: pytest.FixtureRequest) -> Iterator[Client]:
    """Yield a client of each kind; its threads have started."""
    with request.param() as client:
        yield client


def failed_look_up_error(client: Client) -> Exception:
    """Return the exception of a request whose name has no address."""
    return client.failure("http://no..name/")


def look_up_timeout_error() -> Exception:
    """Return the exception for a transfer that timed out before its name had an address."""
    error = pycurl.error(pycurl.E_OPERATION_TIMEDOUT, "Resolving timed out")
    return Handle(BlockingTransfers(), Transfer(MemoryBody, 1)).map_error(error)


def assert_shortage_of(number: int, error: Exception) -> None:
    assert (isinstance(error, requests.RequestException), getattr(error, "errno", None)) == (False, number)


def assert_shortage_of_threads(error: Exception) -> None:
    assert_shortage_of(errno.EAGAIN, error)
    assert "can't start new thread" in str(error)
    assert isinstance(error.__cause__, RuntimeError)


def test_a_shortage_of_threads_is_an_os_error(client: Client) -> None:
    """A look-up that fails or times out while no thread can start is an OSError of this machine."""
    with no_threads():
        failed, late = failed_look_up_error(client), look_up_timeout_error()
    assert_shortage_of_threads(failed)
    assert_shortage_of_threads(late)


def test_with_threads_a_failed_look_up_is_the_networks(client: Client) -> None:
    """With threads available the same look-ups are a NameResolutionError and a ConnectTimeout."""
    assert type(failed_look_up_error(client)) is NameResolutionError
    assert type(look_up_timeout_error()) is requests.ConnectTimeout


def test_out_of_memory_is_an_os_error() -> None:
    """An out-of-memory error of libcurl is an OSError of this machine, even if memory is free again."""
    error = Handle(BlockingTransfers(), Transfer(MemoryBody, 1)).map_error(
        pycurl.error(pycurl.E_OUT_OF_MEMORY, "Out of memory")
    )
    assert_shortage_of(errno.ENOMEM, error)
