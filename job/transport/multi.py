"""Transfers on one thread: a CurlMulti over epoll, which performs all of them at the same time."""

import errno
import os
import select
import socket
from collections.abc import Callable
from contextlib import suppress
from weakref import finalize

import pycurl

_EVENTS = {
    pycurl.POLL_IN: select.EPOLLIN,
    pycurl.POLL_OUT: select.EPOLLOUT,
    pycurl.POLL_INOUT: select.EPOLLIN | select.EPOLLOUT,
}

_BROKEN_OFF = "the transfer was broken off"

Resume = Callable[[pycurl.error | None], object]
"""Goes on with whoever waits for a transfer, given how that ended: None, or why it failed."""


class MultiTransfers:
    """Performs the transfers of all handles on the one thread that calls `poll`.

    On that thread many callers of `perform` wait at the same time: `current` returns what resumes the present caller,
    and `suspend` gives the thread to others until then, and returns the argument of the resumption. Blocking code on
    greenlets has both.

    Only that thread may call anything but `interrupt`, `wake` and `is_interrupted`, which any thread may. No lock is
    needed: other threads only set a flag and write to an eventfd.

    Connections belong to the CurlMulti and outlive their easy handles. So libcurl closes sockets itself: a function for
    that would be one of an easy handle, which may be gone by then. A transfer is broken off by removing its handle.
    """

    close_socket = None

    def __init__(
        self, connections: int, current: Callable[[], Resume], suspend: Callable[[], pycurl.error | None]
    ) -> None:
        """Take how many connections to keep, and the two functions that let a caller wait."""
        self._current = current
        self._suspend = suspend
        self.is_interrupted = False
        self._waiting: dict[pycurl.Curl, Resume] = {}
        self._wanted: set[int] = set()
        """The descriptors that libcurl waits for; epoll also has those of idle connections."""
        self._connections = connections
        self._wake_descriptor = -1

    def open(self) -> None:
        """Get ready; raise OSError if this machine has no descriptors left. Call it before everything else."""
        # `CurlMulti.select` cannot wait for descriptors above 1,023, and nothing could wake it.
        self._epoll = select.epoll()
        descriptor = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        # Open for as long as anybody can call `wake`: its number must not become another file's.
        finalize(self, os.close, descriptor)
        self._epoll.register(descriptor, select.EPOLLIN)
        try:
            self._multi = pycurl.CurlMulti()
        except pycurl.error as error:  # libcurl wakes itself by a descriptor of its own
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE)) from error
        self._multi.setopt(pycurl.M_MAXCONNECTS, self._connections)
        self._multi.setopt(pycurl.M_SOCKETFUNCTION, self._watch)
        self._wake_descriptor = descriptor

    def open_socket(self, address: pycurl.CurlSockAddr) -> int:
        """Return a new socket, which belongs to libcurl from now on; raise OSError where the system has none."""
        if self.is_interrupted:
            return pycurl.SOCKET_BAD
        return socket.socket(address.family, address.socktype, address.protocol).detach()

    def perform(self, curl: pycurl.Curl) -> None:
        """Return when a transfer has ended; others have the thread until then. Raises pycurl.error if it failed."""
        self._multi.add_handle(curl)  # first: nobody waits for a handle that was not taken
        self._waiting[curl] = self._current()
        error = self._suspend()
        if error is not None:
            raise error

    def interrupt(self) -> None:
        """Break off every transfer under way and refuse sockets to new ones, as soon as the thread polls."""
        self.is_interrupted = True
        self.wake()

    def wake(self) -> None:
        """Make `poll` return at once, the present call or the next."""
        if self._wake_descriptor >= 0:
            os.eventfd_write(self._wake_descriptor, 1)

    def poll(self, seconds: float) -> None:
        """Wait for the network, for `seconds` at most, and resume the callers whose transfers have ended."""
        due = self._multi.timeout()  # in milliseconds; -1 if libcurl waits for sockets only
        if due >= 0:
            seconds = min(seconds, due / 1000)
        for descriptor, events in self._epoll.poll(seconds):
            self._handle_events(descriptor, events)
        if self._multi.timeout() == 0:  # for new handles, too
            self._multi.socket_action(pycurl.SOCKET_TIMEOUT, 0)
        if self.is_interrupted:
            self._break_off()
        self._resume_ended()

    def close(self) -> None:
        """Close every connection; nobody may wait for a transfer any more. Waits for a name server that is silent."""
        self._multi.close()
        self._epoll.close()

    def _handle_events(self, descriptor: int, events: int) -> None:
        if descriptor in self._wanted:
            readable = pycurl.CSELECT_IN if events & ~select.EPOLLOUT else 0  # errors and ends are read, too
            writable = pycurl.CSELECT_OUT if events & select.EPOLLOUT else 0
            self._multi.socket_action(descriptor, readable | writable)
        elif descriptor == self._wake_descriptor:
            os.eventfd_read(descriptor)
        else:
            # An idle connection: the server has closed it, which libcurl notices when it takes the connection up again.
            # Until then epoll would report it each time.
            with suppress(OSError):  # closed since this event was reported
                self._epoll.unregister(descriptor)

    def _watch(self, interest: int, descriptor: int, _multi: object, _data: object) -> None:
        """Have epoll wait for a socket as libcurl asks; called within `socket_action`."""
        if interest == pycurl.POLL_REMOVE:
            # The descriptor stays registered, since the next transfer on the connection wants the same. If libcurl
            # closes it, the kernel forgets it, and `modify` fails for the next descriptor of that number.
            self._wanted.discard(descriptor)
            return
        self._wanted.add(descriptor)
        try:
            self._epoll.modify(descriptor, _EVENTS[interest])
        except FileNotFoundError:
            self._epoll.register(descriptor, _EVENTS[interest])

    def _resume_ended(self) -> None:
        more = 1
        while more:
            more, succeeded, failed = self._multi.info_read()
            # A caller that is resumed may begin its next transfer at once, so each handle is removed first.
            for curl in succeeded:
                self._end(curl, None)
            for curl, code, message in failed:
                self._end(curl, pycurl.error(code, message))

    def _break_off(self) -> None:
        for curl in list(self._waiting):
            self._end(curl, pycurl.error(pycurl.E_ABORTED_BY_CALLBACK, _BROKEN_OFF))

    def _end(self, curl: pycurl.Curl, error: pycurl.error | None) -> None:
        self._multi.remove_handle(curl)
        self._waiting.pop(curl)(error)
