"""Runs Chromium without the kernel's news of networks.

Containers of other tests come and go, and Chromium ends the requests of all pages when an interface
of the machine gets or loses an address (ERR_NETWORK_CHANGED). Where it cannot open the socket that
tells of them, it takes the network as it is.

usage: chromium.py PROGRAM [WORD...]
"""

import ctypes
import errno
import os
import platform
import struct
import sys

# Source: Linux, seccomp(2), and the numbers of each architecture.
MACHINES = {"x86_64": (0xC000003E, 41), "aarch64": (0xC00000B7, 198)}
LOAD, EQUAL, RETURN = 0x20, 0x15, 0x06
ALLOW, REFUSE = 0x7FFF0000, 0x00050000
AF_NETLINK = 16
PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, FILTER = 38, 22, 2


class Program(ctypes.Structure):
    """A filter, as the kernel takes it."""

    _fields_ = (("count", ctypes.c_ushort), ("lines", ctypes.c_char_p))


def refuse_netlink() -> None:
    """Have `socket(AF_NETLINK, ...)` fail from now on, also after `exec`."""
    if platform.machine() not in MACHINES:
        return
    architecture, number = MACHINES[platform.machine()]
    lines = [
        (LOAD, 0, 0, 4),
        (EQUAL, 0, 5, architecture),
        (LOAD, 0, 0, 0),
        (EQUAL, 0, 3, number),
        (LOAD, 0, 0, 16),
        (EQUAL, 0, 1, AF_NETLINK),
        (RETURN, 0, 0, REFUSE | errno.EAFNOSUPPORT),
        (RETURN, 0, 0, ALLOW),
    ]
    data = b"".join(struct.pack("HBBI", *line) for line in lines)
    program = Program(len(lines), data)
    kernel = ctypes.CDLL(None, use_errno=True)
    if kernel.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) or kernel.prctl(
        PR_SET_SECCOMP, FILTER, ctypes.byref(program), 0, 0
    ):
        raise OSError(ctypes.get_errno(), "no filter")


refuse_netlink()
os.execv(sys.argv[1], sys.argv[1:])  # noqa: S606  the words are the caller's
