"""No test reaches the network: whatever tries raises `NetworkUsed`.

On PYTHONPATH (tests/conftest.py puts it there) Python imports this at the start of every process, so
notebook kernels and commands that tests start are guarded as well. Audit hooks see every connection
and look-up, whichever library makes it, and cannot be taken off again.
"""

import ipaddress
import socket
import sys

attempts = []


class NetworkUsed(Exception):
    """A test tried to reach another machine."""


def _is_here(host):
    name = host.decode() if isinstance(host, bytes) else str(host or "localhost")
    if name in ("localhost", socket.gethostname(), f"{socket.gethostname()}.local"):
        return True
    try:
        address = ipaddress.ip_address(name.split("%")[0])
    except ValueError:
        return False
    return address.is_loopback or address.is_unspecified


def _watch(event, arguments):
    if event in ("socket.connect", "socket.sendto", "socket.sendmsg"):
        address = arguments[1]
        if not isinstance(address, tuple):  # none, or a socket of the file system
            return
        host = address[0]
    elif event in ("socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr"):
        host = arguments[0]
    else:
        return
    if not _is_here(host):
        attempts.append((event, host))
        raise NetworkUsed(f"{event}: a test tried to reach {host!r}")


sys.addaudithook(_watch)
