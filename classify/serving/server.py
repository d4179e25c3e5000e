"""The server of a page: waitress, which is made for networks too."""

import sys
import threading
import webbrowser
from contextlib import suppress

import waitress
from flask import Flask
from waitress import wasyncore

from classify.serving import HOST, PORT, addresses
from extract.system import console

THREADS = 72
"""More than may hold a photo, so that the page itself never waits for photos."""

CONNECTIONS = 400
"""A browser keeps up to six, and this is below the usual limit of 1,024 open files."""

IDLE = 30
"""Seconds after which a connection is closed that sends nothing and waits for no answer."""

M_ARENA_MAX, ARENAS = -8, 2
"""A setting of the C library of Linux, and its value. By default every thread soon has memory of
its own, which stays as large as the largest photo that the thread has had."""

RECEIVED_AT_ONCE = 262_144
"""Bytes; waitress would take a large photo in pieces of 8 KB."""


class Server:
    """Answers requests, several at once, from when it is made.

    Waitress would drop the exception that a signal raises while it handles a connection. So it runs
    in a thread of its own, and `wait` can be stopped at any time.

    Parameters
    ----------
    app : Flask
        Its ``MAX_CONTENT_LENGTH`` is the most bytes of a request.
    host : str
    port : int
        0 for any that is free.

    Attributes
    ----------
    address : str
        The address that is listened on.
    port : int

    Raises
    ------
    InputError
        If the host is not an address of this machine, or the port is in use or not allowed.
    """

    def __init__(self, app: Flask, *, host: str = HOST, port: int = PORT) -> None:
        listening = addresses.listen(host, port)
        self.address, self.port = listening.getsockname()[:2]
        if hasattr(console.C_LIBRARY, "mallopt"):
            console.C_LIBRARY.mallopt(M_ARENA_MAX, ARENAS)
        self._ended = threading.Event()
        self._sockets: dict[int, wasyncore.dispatcher] = {}
        self._waitress = waitress.create_server(
            app,
            map=self._sockets,
            sockets=[listening],
            threads=THREADS,
            connection_limit=CONNECTIONS,
            channel_timeout=IDLE,
            cleanup_interval=IDLE // 3,
            recv_bytes=RECEIVED_AT_ONCE,
            # The application says what is too large. Up to here it is received, into a file,
            # because most programs read no answer before they have sent everything.
            max_request_body_size=2 * app.config["MAX_CONTENT_LENGTH"],
            log_socket_errors=False,
            # select() takes no file beyond the 1,024th, and libraries have many open.
            asyncore_use_poll=True,
        )
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def wait(self) -> None:
        """Wait until `shutdown` is called."""
        # On Windows, a signal is noticed only when a wait ends.
        while not self._ended.wait(1):
            pass

    def shutdown(self) -> None:
        """Make `wait` return."""
        self._ended.set()

    def close(self) -> None:
        """Free the port and end the threads, for a process that goes on."""
        self._waitress.task_dispatcher.shutdown(timeout=1)
        pulled = threading.Event()

        def close_all() -> None:
            # An answer may wake the thread before the trigger, which is closed here, is pulled.
            pulled.wait()
            wasyncore.close_all(self._sockets)

        # Only the thread that waits for the sockets may close them.
        self._waitress.trigger.pull_trigger(close_all)
        pulled.set()
        self._thread.join()

    def _run(self) -> None:
        try:
            self._waitress.run()
        finally:
            self._ended.set()


def check_address(host: str, port: int) -> None:
    """Make sure that a port can be listened on, before anything that takes a while.

    Raises
    ------
    InputError
        As `Server` does it.
    """
    addresses.listen(host, port).close()


def serve(server: Server, host: str, said: str) -> None:
    """Say where the page is, and wait until the server is shut down or a signal comes.

    Parameters
    ----------
    server : Server
    host : str
        The address that it was asked to listen on.
    said : str
        What the user is told first, with ``{url}`` for the address of the page.
    """
    url = addresses.url(host, server.port)
    everywhere = " (also at every other address of this machine)"
    shown = url + (everywhere if addresses.is_for_all(host) else "")
    with suppress(console.Stopped):
        console.say(said.replace("{url}", shown))
        if sys.stdout.isatty():
            webbrowser.open(url)
        server.wait()
