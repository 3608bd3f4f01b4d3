"""A screen without TensorFlow's messages.

TensorFlow's C++ writes to file descriptor 2 what it found out about the processor, that there is no
GPU, that XLA compiled something: dozens of lines, of which TF_CPP_MIN_LOG_LEVEL holds back only
some. So for the time of a command descriptor 2 is a pipe, while Python's `sys.stderr` stays with
the screen. A small process at the pipe's other end keeps the last lines. It shows them if the
command ends as it should not, in a traceback or killed in the middle of C++, where no code of this
process runs any more.
"""

from __future__ import annotations

import contextlib
import logging
import os
import subprocess
import sys
from collections.abc import Iterator

_END = b"the end\n"
_KEEPER = f"""
import collections, itertools, sys
lines = itertools.takewhile({_END!r}.__ne__, sys.stdin.buffer)
last = collections.deque(filter(bytes.strip, lines), maxlen=100)
if last:
    sys.stdout.buffer.write(b"The last messages of TensorFlow and other libraries:\\n")
    sys.stdout.buffer.writelines(last)
"""


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keeps TensorFlow's messages from the screen, unless TF_CPP_MIN_LOG_LEVEL is 0.

    Where `sys.stderr` is not descriptor 2 (somebody else has redirected it) only those of
    TensorFlow's Python are held back.
    """
    if os.environ.get("TF_CPP_MIN_LOG_LEVEL") == "0":
        yield
        return
    # Every network is compiled anew here, which TensorFlow takes for a mistake.
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    if not _stderr_is_descriptor_2():
        yield
        return
    before = sys.stderr
    screen = os.fdopen(os.dup(2), "w", 1, before.encoding, before.errors)
    keeper = subprocess.Popen(
        [sys.executable, "-ISc", _KEEPER],
        stdin=subprocess.PIPE,
        stdout=screen,
        start_new_session=True,  # Ctrl-C is for the command
    )
    os.dup2(keeper.stdin.fileno(), 2)
    keeper.stdin.close()
    sys.stderr = screen
    try:
        yield
    except Exception:
        os.write(2, b"\n" + _END)  # closing is not enough: a child may have the pipe open, too
        keeper.wait()
        raise
    finally:
        keeper.kill()  # first: at the end of the pipe it would show what it has
        keeper.wait()
        sys.stderr = before
        os.dup2(screen.fileno(), 2)


def _stderr_is_descriptor_2():
    try:
        return sys.stderr.fileno() == 2
    except (AttributeError, OSError):  # there is none, or it is no file
        return False
