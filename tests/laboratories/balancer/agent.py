#!/usr/bin/python3 -I
"""Run commands over the network on a machine with a kernel of its own: like ssh, but without keys.

``agent.py serve`` runs on that machine, ``agent.py call ADDRESS COMMAND...`` on this one.  Standard
input goes there; both outputs and the exit status come back.
"""

import json
import os
import socket
import struct
import subprocess
import sys
import threading
from socketserver import StreamRequestHandler, ThreadingTCPServer
from typing import IO

_PORT = 7
_FRAME = struct.Struct("!BI")  # kind and length; the kind is descriptor 1 or 2, or 0 for the status
_MOST = 65536


class _Server(ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 50


class _Handler(StreamRequestHandler):
    rbufsize = 0  # what follows the line of the command is the command's own input

    def handle(self) -> None:
        command = json.loads(self.rfile.readline())
        self._lock = threading.Lock()
        with subprocess.Popen(
            command, stdin=self.connection, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        ) as process:
            assert process.stdout is not None
            assert process.stderr is not None
            outputs = {1: process.stdout, 2: process.stderr}
            threads = [threading.Thread(target=self._pass_on, args=it) for it in outputs.items()]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        self._send(0, str(process.returncode).encode())

    def _pass_on(self, what: int, output: "IO[bytes]") -> None:
        for data in iter(lambda: os.read(output.fileno(), _MOST), b""):
            self._send(what, data)

    def _send(self, what: int, data: bytes) -> None:
        with self._lock:
            self.connection.sendall(_FRAME.pack(what, len(data)) + data)


def _serve() -> None:
    server = _Server(("", _PORT), _Handler)
    print("agent: ready", flush=True)
    server.serve_forever()


def _call(address: str, *command: str) -> int:
    connection = socket.create_connection((address, _PORT), timeout=20)
    connection.settimeout(None)
    connection.sendall(json.dumps(command).encode() + b"\n")
    threading.Thread(target=_send_input, args=(connection,), daemon=True).start()
    with connection.makefile("rb") as answers:
        while header := answers.read(_FRAME.size):
            what, length = _FRAME.unpack(header)
            data = answers.read(length)
            if not what:
                return int(data)
            os.write(what, data)
    sys.exit(f"agent: {address} is gone")


def _send_input(connection: socket.socket) -> None:
    for data in iter(lambda: os.read(0, _MOST), b""):
        connection.sendall(data)
    connection.shutdown(socket.SHUT_WR)


if sys.argv[1] == "serve":
    _serve()
# A thread may still wait for standard input, which nobody needs any more.
os._exit(_call(*sys.argv[2:]) % 256)
