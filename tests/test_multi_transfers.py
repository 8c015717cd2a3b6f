"""Transfers on one thread: what `MultiTransfers` promises beyond what holds for every way to perform a transfer."""

import gc
import os
import resource
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import monotonic

import pycurl
import pytest
import requests
from bodies import MemoryBody
from limits import limited
from scripted import Answer, Raw, ScriptedServer

from job.transport import CurlAdapter, MultiTransfers

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nflag"


class PolledTransfers(MultiTransfers):
    """Transfers of one caller, who polls while it waits."""

    def __init__(self) -> None:
        self._ended: list[pycurl.error | None] = []
        super().__init__(2, current=lambda: self._ended.append, suspend=self._poll_until_ended)
        self.open()

    def _poll_until_ended(self) -> pycurl.error | None:
        while not self._ended:
            self.poll(1.0)
        return self._ended.pop()


class OneNumber(PolledTransfers):
    """The same, but that each socket has the number of the one before it, which must be closed by then."""

    number = 900
    opened = 0

    def open_socket(self, address: pycurl.CurlSockAddr) -> int:
        """Return a new socket with the one number."""
        made = super().open_socket(address)
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(self.number)
        os.dup2(made, self.number, inheritable=False)
        os.close(made)
        self.opened += 1
        return self.number


@pytest.fixture
def transfers() -> Iterator[PolledTransfers]:
    transfers = PolledTransfers()
    yield transfers
    transfers.close()


def get(transfers: MultiTransfers, url: str) -> bytes:
    """Send one request with a handle of its own, and return the body."""
    adapter = CurlAdapter(new_body=MemoryBody, max_bytes=100, transfers=transfers)
    return adapter.send(requests.Request("GET", url).prepare()).content


def returns_early(transfers: MultiTransfers, seconds: float) -> bool:
    """Return whether `poll` does not wait so many seconds."""
    until = monotonic() + seconds
    transfers.poll(seconds)
    return monotonic() < until


def open_descriptors() -> int:
    """Return how many descriptors this process has open."""
    return len(list(Path("/proc/self/fd").iterdir()))


def test_connections_outlive_their_handles(transfers: PolledTransfers) -> None:
    """A handle that is new takes up the connection of another one."""
    with ScriptedServer({"/cn": Answer(body=b"flag")}) as server:
        assert [get(transfers, server.url("/cn")) for _ in range(3)] == [b"flag"] * 3
    assert server.connections == 1


def test_a_closed_idle_connection_is_reported_once(transfers: PolledTransfers) -> None:
    """When the server closes an idle connection, `poll` returns early at most once, and does not spin after that."""
    with ScriptedServer({"/cn": [Raw(OK), Answer(body=b"flag")]}) as server:
        assert get(transfers, server.url("/cn")) == b"flag"
        assert [returns_early(transfers, 0.2) for _ in range(4)][1:] == [False] * 3
        assert get(transfers, server.url("/cn")) == b"flag"
    assert server.connections == 2


def test_the_number_of_a_closed_socket_may_be_the_next_ones() -> None:
    """A new socket with the number of one that libcurl has closed is waited for as any other."""
    transfers = OneNumber()
    with ScriptedServer({"/cn": Raw(b"HTTP/1.1 200 OK\r\n\r\nflag")}) as server:
        assert [get(transfers, server.url("/cn")) for _ in range(3)] == [b"flag"] * 3
    transfers.close()
    assert transfers.opened == 3


def test_wake_ends_the_present_or_the_next_poll_and_no_other(transfers: PolledTransfers) -> None:
    """`poll` returns when another thread calls `wake`, or called it before, however often; the one after it waits."""
    transfers.wake()
    transfers.wake()
    assert returns_early(transfers, 60)
    assert not returns_early(transfers, 0.1)
    with ThreadPoolExecutor(1) as pool:
        polling = pool.submit(returns_early, transfers, 60)
        transfers.wake()
        assert polling.result(10)


def test_a_handle_that_was_not_taken_is_not_waited_for(transfers: PolledTransfers) -> None:
    """A transfer that cannot begin raises pycurl.error, and `interrupt` then finds nothing to break off."""
    other = pycurl.CurlMulti()
    curl = pycurl.Curl()
    other.add_handle(curl)
    with pytest.raises(pycurl.error):
        transfers.perform(curl)
    transfers.interrupt()
    assert returns_early(transfers, 60)
    other.remove_handle(curl)


def test_no_socket_opens_after_interrupt(transfers: PolledTransfers) -> None:
    """A transfer that began just before `interrupt` gets no socket after it."""
    transfers.interrupt()
    address = pycurl.CurlSockAddr(family=socket.AF_INET, socktype=socket.SOCK_STREAM, protocol=0, addr=("127.0.0.1", 9))
    assert transfers.open_socket(address) == pycurl.SOCKET_BAD


def test_no_descriptor_is_left() -> None:
    """`close` closes every connection; the descriptor that wakes `poll` is closed when nobody can use it any more."""

    def use_and_close() -> int:
        transfers = PolledTransfers()
        with ScriptedServer({"/cn": Answer(body=b"flag")}) as server:
            get(transfers, server.url("/cn"))
        transfers.close()
        transfers.wake()
        return open_descriptors()

    gc.collect()
    before = open_descriptors()
    assert use_and_close() == before + 1
    gc.collect()
    assert open_descriptors() == before


@pytest.mark.parametrize("free", range(3))
def test_a_machine_without_descriptors_is_named(free: int) -> None:
    """Where one of the three descriptors that polling needs is missing, `open` raises an OSError that says so."""
    ended: list[pycurl.error | None] = []
    transfers = MultiTransfers(2, current=lambda: ended.append, suspend=lambda: None)
    limit = limited(resource.RLIMIT_NOFILE, _first_free_descriptor() + free)
    with limit, pytest.raises(OSError, match="Too many open files"):
        transfers.open()
    transfers.wake()  # whoever cleans up may call it all the same


def _first_free_descriptor() -> int:
    descriptor = os.dup(0)
    os.close(descriptor)
    return descriptor
