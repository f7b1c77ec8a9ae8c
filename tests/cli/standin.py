"""A stand-in for a part: small enough to start in milliseconds, with the sockets and the manners of the real one.

``standin.py serve --slot w1 | guard | work | prepare | proxy [--hold]``; ``STANDIN_RUN`` is the run directory.
A file ``<name>.<order>`` in ``STANDIN_ORDERS`` changes what it does: ``die`` (exit 3 at the start), ``wrong`` (exit 2),
``unready`` (answers 503 to /health/ready), ``deaf`` (heeds no SIGTERM), ``slow`` (drains for half a second).
"""

import json
import os
import selectors
import signal
import socket
import sys
import time

role = sys.argv[1]
name = sys.argv[sys.argv.index("--slot") + 1] if "--slot" in sys.argv else role
run = os.environ["STANDIN_RUN"]
orders = os.environ.get("STANDIN_ORDERS", "/nonexistent")


def ordered(what):
    return os.access(f"{orders}/{name}.{what}", os.F_OK)


def listen(path):
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen(64)
    return listener


def answer(connection):
    path = connection.recv(65536).split(b" ")[1].decode()
    if path == "/crash":
        os._exit(3)
    code = 503 if path == "/health/ready" and ordered("unready") else 200
    connection.sendall(f"HTTP/1.0 {code} X\r\n\r\n{json.dumps({'part': name, 'pid': os.getpid()})}".encode())


def stop(*_):
    if ordered("slow"):
        time.sleep(0.5)
    print("drained", flush=True)
    os._exit(0)


if "--hold" in sys.argv:
    print("held", flush=True)
    if not sys.stdin.readline():
        os._exit(0)
print(f"{name} starts", flush=True)
if ordered("die"):
    print("ERROR no such luck", flush=True)
    sys.exit(3)
if ordered("wrong"):
    sys.exit(2)
if role == "prepare":
    print(json.dumps({"administrator": "admin", "one_time_password": "correct-horse"}))
    sys.exit(0)
signal.signal(signal.SIGTERM, signal.SIG_IGN if ordered("deaf") else stop)
if ordered("child") and os.fork() == 0:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    time.sleep(600)
if role == "proxy":
    listeners = [listen(f"{run}/envoy/admin.sock")]
    for port in sys.argv[2].split(","):
        tcp = socket.socket()
        tcp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        tcp.bind(("127.0.0.1", int(port)))
        tcp.listen(8)
        listeners.append(tcp)
else:
    listeners = [listen(f"{run}/{name}/api.sock")]
    if role == "serve":
        listeners.append(listen(f"{run}/{name}/check.sock"))
selector = selectors.DefaultSelector()
for listener in listeners:
    selector.register(listener, selectors.EVENT_READ)
while True:
    for key, _ in selector.select():
        connection, _ = key.fileobj.accept()
        try:
            answer(connection)
        except (OSError, IndexError):
            pass
        connection.close()
