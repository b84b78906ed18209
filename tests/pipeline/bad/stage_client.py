"""Stands where `rvk8s-stage` or `python -m MODULE` would: asks bench.py for a fork that does it."""

import json
import os
import socket
import sys

path, *words = sys.argv[1:]
with socket.socket(socket.AF_UNIX) as connection:
    connection.connect(path)
    request = {"env": dict(os.environ)}
    if words[0] == "-m":
        request |= {"module": words[1], "arguments": words[2:], "folder": os.getcwd()}
        request["log"] = f"/proc/{os.getpid()}/fd/2"
    else:
        request["stage"] = words[0]
    connection.sendall((json.dumps(request) + "\n").encode())
    sys.exit(int(connection.makefile().readline()))
