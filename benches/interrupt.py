#!/usr/bin/env python3
"""Ctrl-C at each stage of `forge exec` in a microVM of `forge serve`, behind a relay that answers nothing at exactly that stage:
how long until forge ends, its code, and what is left. Needs only python3.

  cargo build --release -p forge-cli && benches/interrupt.py target/release/forge
"""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request

FORGE = os.path.realpath(sys.argv[1] if len(sys.argv) > 1 else "target/release/forge")


class Relay:
    """Passes requests on, but those that are held, until it is released."""

    def __init__(self, server, is_held):
        self.server, self.is_held = server, is_held
        self.held, self.released = threading.Event(), threading.Event()
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.own = "127.0.0.1:%d" % self.listener.getsockname()[1]
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            client, _ = self.listener.accept()
            threading.Thread(target=self.ask, args=(client,), daemon=True).start()

    def ask(self, client):
        host, port = self.server.split(":")
        server = socket.create_connection((host, int(port)))
        threading.Thread(target=self.answer, args=(server, client), daemon=True).start()
        requests = client.makefile("rb")
        while first := requests.readline():
            head = first
            while not head.endswith(b"\r\n\r\n"):
                head += requests.readline()
            fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:] if line)
            body = requests.read(int(fields.get(b"content-length", 0)))
            if self.is_held(first.decode(), body):
                self.held.set()
                self.released.wait()
            server.sendall(head + body)
        server.close()

    def answer(self, server, client):
        try:
            while answer := server.recv(1 << 16):
                # So that the client comes back here; both are as long.
                client.sendall(answer.replace(self.server.encode(), self.own.encode()))
            client.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass


def stages():
    lists = []

    def is_fetch(_, body):
        if b"-printf '%y %m %s" in body:
            lists.append(body)
            return len(lists) > 1  # The first one is the tree as it was brought in.
        return False

    yield "create", lambda first, _: first.startswith("POST") and "/sandboxes" in first, 1, None
    yield "upload", lambda first, _: first.startswith("PUT"), 1, None
    yield "command", lambda *_: False, 1, None
    yield "fetch, which answers a second later", is_fetch, 1, 1.0
    lists.clear()
    yield "fetch, twice", is_fetch, 2, None


def measure(place, server, stage, is_held, interrupts, release_after):
    relay = Relay(server, is_held)
    project, home = os.path.join(place, stage, "project"), os.path.join(place, stage, "home")
    os.makedirs(project)
    os.makedirs(home)
    with open(os.path.join(project, "file"), "w") as file:
        file.write("as it was\n")
    environment = {"PATH": os.environ["PATH"], "HOME": home, "TENSORLAKE_API_KEY": "k",
                   "TENSORLAKE_API_URL": "http://" + relay.own}
    work = "echo x >made; echo here" + ("; exec sleep 1000" if stage == "command" else "")
    child = subprocess.Popen([FORGE, "exec", "-c", work], cwd=project, env=environment, text=True,
                             stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    if stage == "command":
        child.stdout.readline()
    else:
        assert relay.held.wait(30)
    time.sleep(0.1)
    begin = time.perf_counter()
    for number in range(interrupts):
        # Two at the same moment would be one.
        time.sleep(0.1 if number > 0 else 0)
        child.send_signal(signal.SIGINT)
    if release_after:
        time.sleep(release_after)
        relay.released.set()
    _, said = child.communicate(timeout=120)
    took = (time.perf_counter() - begin) * 1000
    request = urllib.request.Request(f"http://{server}/v1/namespaces/default/sandboxes", headers={"Authorization": "Bearer k"})
    alive = len(json.load(urllib.request.urlopen(request))["sandboxes"])
    listed = subprocess.run([FORGE, "session", "list", "--json"], cwd=project, env=environment | {"TENSORLAKE_API_KEY": ""},
                            capture_output=True, text=True).stdout
    records = sum(len(session["microvms"]) for session in json.loads(listed))
    print(f"{stage}: {took:.0f} ms, code {child.returncode}, {alive} alive, {records} on record")
    for line in said.splitlines():
        print(f"    {line}")
    relay.released.set()
    subprocess.run([FORGE, "session", "prune"], cwd=project, env=environment, capture_output=True)


with tempfile.TemporaryDirectory() as place:
    own = dict(os.environ, FORGE_SERVE_API_KEY="k", HOME=place)
    serve = subprocess.Popen([FORGE, "serve", "--state-dir", os.path.join(place, "serve")], env=own, text=True,
                             stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    server = serve.stdout.readline().strip().removeprefix("http://")
    try:
        for stage in stages():
            measure(place, server, *stage)
    finally:
        serve.terminate()
        serve.wait()
