#!/usr/bin/python3 -I
"""Run commands over the network on a machine with a kernel of its own: like ssh, but without keys.

``agent.py serve`` runs on that machine, ``agent.py call ADDRESS COMMAND...`` on this one.  Standard
input goes there; both outputs and the exit status come back when the command has ended.
"""

import json
import socket
import subprocess
import sys
from socketserver import StreamRequestHandler, ThreadingTCPServer

_PORT = 7


class _Server(ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 50


class _Handler(StreamRequestHandler):
    def handle(self) -> None:
        import tempfile  # slow to load, and a call does not need it

        command, text = json.load(self.rfile)
        # A file, not a pipe: bash reads pipes byte by byte, which is slow where each system call is slow.
        with tempfile.TemporaryFile() as file:
            file.write(text.encode())
            file.seek(0)
            done = subprocess.run(command, stdin=file, capture_output=True, text=True, check=False)
        answer = (done.stdout, done.stderr, done.returncode)
        self.wfile.write(json.dumps(answer).encode())


def _serve() -> None:
    server = _Server(("", _PORT), _Handler)
    print("agent: ready", flush=True)
    server.serve_forever()


def _call(address: str, *command: str) -> None:
    with socket.create_connection((address, _PORT), timeout=20) as connection:
        connection.settimeout(None)
        connection.sendall(json.dumps([command, sys.stdin.read()]).encode())
        connection.shutdown(socket.SHUT_WR)
        answer = connection.makefile().read()
    if not answer:
        sys.exit(f"agent: {address} is gone")
    output, errors, status = json.loads(answer)
    sys.stdout.write(output)
    sys.stderr.write(errors)
    sys.exit(status % 256)


if sys.argv[1] == "serve":
    _serve()
else:
    _call(*sys.argv[2:])
