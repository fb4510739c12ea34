"""Runs the dispatcher's stand-in of Azul's own library until standard input ends; prints its URL first."""

import os
import socket
import sys
import threading
import warnings

# The library's own affair.
warnings.simplefilter("ignore")

import uvicorn  # noqa: E402
from azul_bedrock.mock.dp import app  # noqa: E402


def end_with_parent():
    sys.stdin.buffer.read()
    os._exit(0)


threading.Thread(target=end_with_parent, daemon=True).start()
listener = socket.socket()
listener.bind(("127.0.0.1", 0))
listener.listen()
print(f"http://127.0.0.1:{listener.getsockname()[1]}", flush=True)
uvicorn.Server(uvicorn.Config(app, log_level="warning")).run(sockets=[listener])
