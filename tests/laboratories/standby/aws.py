"""The AWS CLI, loaded once for all calls of a machine: loading takes most of the time of a call.

``aws.py serve`` returns as soon as it can be called.  The CLI then runs in the background, and handles
each call in a child process.  ``aws.py call ARGUMENT...`` is ``aws ARGUMENT...`` with the environment
and standard files of this process.
"""

import gc
import json
import os
import signal
import socket
import sys
from collections.abc import Callable

_SOCKET = "/run/aws"
_LONGEST = 1 << 17  # bytes of the arguments and the environment of a call


def _serve() -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(_SOCKET)
        listener.listen()
        if os.fork():
            return
        os.setsid()
        null = os.open(os.devnull, os.O_RDWR)
        for standard in range(3):
            os.dup2(null, standard)
        from awscli.clidriver import main  # type: ignore[import-not-found]

        gc.freeze()
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        while True:
            connection, _ = listener.accept()
            if not os.fork():
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                _answer(connection, main)
                os._exit(0)
            connection.close()


def _answer(connection: socket.socket, main: "Callable[[], int]") -> None:
    call, files, _, _ = socket.recv_fds(connection, _LONGEST, 3)
    for standard, file in enumerate(files):
        os.dup2(file, standard)
    arguments, environ = json.loads(call)
    own = os.environ["AWS_DATA_PATH"]  # the CLI sets this variable while it is loaded
    os.environ.clear()
    os.environ.update(environ, AWS_DATA_PATH=own)
    sys.argv = ["aws", *arguments]
    status = main()
    sys.stdout.flush()
    connection.send(bytes([status]))


def _call(arguments: "list[str]") -> int:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:
        connection.connect(_SOCKET)
        call = json.dumps([arguments, dict(os.environ)])
        socket.send_fds(connection, [call.encode()], range(3))
        return connection.recv(1)[0]


if sys.argv[1] == "serve":
    _serve()
else:
    sys.exit(_call(sys.argv[2:]))
