"""What of the figures of `forge serve` is measured by a script: see serve.sh."""

import http.client
import http.server
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time

URL, FORGE, SERVER, PROJECT = sys.argv[1:5]
HOST = URL.removeprefix("http://")

from tensorlake.sandbox import Sandbox  # noqa: E402


def milliseconds(call):
    begin = time.perf_counter()
    call()
    return (time.perf_counter() - begin) * 1000


def median(times):
    return f"{statistics.median(times):8.2f} ms"


def create():
    return Sandbox.create(api_url=URL, api_key="k", timeout_secs=600, allow_internet_access=False)


def peak_mib(pid):
    for line in open(f"/proc/{pid}/status"):
        if line.startswith("VmHWM"):
            return int(line.split()[1]) / 1024


def request(connection, method, path, sandbox, body=None, kind="application/json"):
    headers = {"Authorization": "Bearer k", "X-Tensorlake-Sandbox-Id": sandbox, "Content-Type": kind}
    connection.request(method, path, body, headers)
    response = connection.getresponse()
    while response.read(1 << 20):
        pass
    assert response.status < 300, response.status


def lifecycle():
    def whole():
        sandbox = create()
        assert sandbox.run("echo", ["hi"]).stdout.strip() == "hi"
        sandbox.terminate()

    times = [milliseconds(whole) for _ in range(20)]
    print(f"the vendor's client: create, first output, delete  {median(times[3:])}")
    command = [FORGE, "--tensorlake-url", URL, "exec", "--", "echo", "hi"]
    run = lambda: subprocess.run(command, cwd=PROJECT, check=True, capture_output=True)
    times = [milliseconds(run) for _ in range(20)]
    print(f"forge exec -- echo, whole, an empty project        {median(times[3:])}")


def commands():
    sandbox = create()
    identity = sandbox.sandbox_id
    connection = http.client.HTTPConnection(HOST)
    body = json.dumps({"command": "true"})
    bare, vendor = [], []
    for _ in range(200):
        bare.append(milliseconds(
            lambda: request(connection, "POST", "/api/v1/processes/run", identity, body)))
        vendor.append(milliseconds(lambda: sandbox.run("true")))
    print(f"a command: by Python's own client                  {median(bare[10:])}")
    print(f"           by the vendor's client, run()           {median(vendor[10:])}")
    sandbox.terminate()


def gigabyte():
    command = [FORGE, "--tensorlake-url", URL, "exec", "-c", "yes 0123456789abcdef | head -c 1073741824"]
    before = peak_mib(SERVER)
    begin = time.perf_counter()
    child = subprocess.Popen(command, cwd=PROJECT, stdout=subprocess.PIPE)
    total, client = 0, 0
    while chunk := child.stdout.read(1 << 20):
        total += len(chunk)
        if total % (64 << 20) < (1 << 20):
            client = max(client, peak_mib(child.pid) or 0)
    assert child.wait() == 0 and total == 1 << 30, total
    seconds = time.perf_counter() - begin
    print(f"1 GiB through run, by forge exec                   {seconds:8.2f} s, {1024 / seconds:.0f} MiB/s")
    print(f"  peak memory: client {client:.0f} MiB, server {before:.0f} MiB before and {peak_mib(SERVER):.0f} MiB after")


def files():
    class Plain(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        contents = os.urandom(64 << 20)

        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Length", str(len(self.contents)))
            self.end_headers()
            self.wfile.write(self.contents)

        def do_PUT(self):
            with tempfile.TemporaryFile(dir=PROJECT) as file:
                left = int(self.headers["Content-Length"])
                while left:
                    left -= file.write(self.rfile.read(min(left, 1 << 20)))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_):
            pass

    plain = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Plain)
    threading.Thread(target=plain.serve_forever, daemon=True).start()
    sandbox = create()
    identity = sandbox.sandbox_id
    ours, theirs = http.client.HTTPConnection(HOST), http.client.HTTPConnection("127.0.0.1", plain.server_port)
    path, times = "/api/v1/files?path=/home/forge/big", {"up": ([], []), "down": ([], [])}
    for _ in range(7):
        for name, method, body in [("up", "PUT", Plain.contents), ("down", "GET", None)]:
            for connection, where in [(ours, 0), (theirs, 1)]:
                call = lambda: request(connection, method, path, identity, body, "application/octet-stream")
                times[name][where].append(milliseconds(call))
    for name, (serve, other) in times.items():
        ratio = statistics.median(serve) / statistics.median(other)
        print(f"64 MiB {name:4}: forge serve {median(serve)}, plain HTTP {median(other)}, ratio {ratio:.2f}")
    sandbox.terminate()


lifecycle()
commands()
gigabyte()
files()
