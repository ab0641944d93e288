"""The vendor's Python client against `forge serve`: everything that docs/serve.md says is covered.

    python client.py URL            as a server on this machine: paths with namespaces, a host for each sandbox
    python client.py --flat URL     as the vendor's service: flat paths, a header for each sandbox

The key is taken from TENSORLAKE_API_KEY. Each part is a function; the name of one that fails is printed, and the exit code is 1.
"""

import asyncio
import hashlib
import os
import sys
import tempfile
import threading
import time
import traceback

URL = sys.argv[-1]
if sys.argv[1] == "--flat":
    # The client tells the two apart by the host: this one is the same machine under another name.
    URL = URL.replace("127.0.0.1", "0.0.0.0")
    os.environ["TENSORLAKE_SANDBOX_API_URL"] = URL
os.environ["NO_PROXY"] = "127.0.0.1,0.0.0.0"

# Only now: it reads its environment when it is imported.
from tensorlake.sandbox import (  # noqa: E402
    AsyncSandbox,
    OutputMode,
    Sandbox,
    SandboxClient,
    SandboxError,
    SandboxNotFoundError,
    StdinMode,
)

KEY = os.environ["TENSORLAKE_API_KEY"]


def create(**arguments):
    return Sandbox.create(
        api_url=URL, api_key=KEY, timeout_secs=120, allow_internet_access=False, **arguments
    )


def client(key=KEY):
    return SandboxClient(api_url=URL, api_key=key)


def until(what, is_so):
    give_up = time.time() + 20
    while not is_so():
        assert time.time() < give_up, f"waited in vain until {what}"
        time.sleep(0.02)


def raises(kind, call):
    try:
        call()
    except kind as error:
        return error
    raise AssertionError(f"no {kind.__name__} was raised")


def value(traced):
    """What a call gave, whether or not it comes with a trace."""
    return getattr(traced, "value", traced)


def run(sandbox):
    result = sandbox.run("sh", ["-c", "echo out; echo err >&2; exit 3"])
    assert (result.stdout, result.stderr, result.exit_code) == ("out", "err", 3), result
    assert result.reason.value == "exited", result
    result = sandbox.run("sh", ["-c", 'echo "$A"; pwd'], env={"A": "b c"}, working_dir="/usr")
    assert result.stdout == "b c\n/usr", result
    result = sandbox.run("sh", ["-c", "kill -9 $$"])
    assert (result.exit_code, result.reason.value) == (-9, "signaled"), result
    began = time.time()
    result = sandbox.run("sh", ["-c", "echo begun; sleep 60"], timeout=0.5)
    assert result.timed_out and result.stdout == "begun", result
    assert time.time() - began < 20
    result = sandbox.run("seq", ["20000"])
    assert result.stdout == "\n".join(str(n) for n in range(1, 20001))
    own = sandbox.run("id", ["-un"]).stdout
    if own == "root":
        assert sandbox.run("id", ["-u"], user="root").stdout == "0"
    error = raises(SandboxError, lambda: sandbox.run("id", user="nobody"))
    assert "nobody" in str(error), error
    error = raises(SandboxError, lambda: sandbox.run("no-such-program"))
    assert "not found" in str(error), error


def processes(sandbox):
    process = sandbox.start_process("cat", stdin_mode=StdinMode.PIPE)
    pid = process.pid
    assert process.status.value == "running" and process.stdin_writable, process
    assert pid in [one.pid for one in sandbox.list_processes()]
    lines = []
    # This client gives the events when all are there.
    follow = threading.Thread(
        target=lambda: lines.extend(event.line for event in sandbox.follow_stdout(pid))
    )
    follow.start()
    sandbox.write_stdin(pid, b"one\n")
    sandbox.write_stdin(pid, b"two\n")
    until("both came back", lambda: value(sandbox.get_stdout(pid)).line_count == 2)
    sandbox.close_stdin(pid)
    follow.join(20)
    assert (follow.is_alive(), lines) == (False, ["one", "two"])
    assert value(sandbox.get_process(pid)).exit_code == 0
    assert value(sandbox.get_stdout(pid)).lines == ["one", "two"]

    process = sandbox.start_process("sh", ["-c", "echo o; echo e >&2"], stderr_mode=OutputMode.DISCARD)
    events = list(sandbox.follow_output(process.pid))
    assert [(event.line, event.stream) for event in events] == [("o", "stdout")], events
    assert value(sandbox.get_stderr(process.pid)).lines == []
    assert value(sandbox.get_output(process.pid)).line_count == 1

    process = sandbox.start_process("sleep", ["1000"])
    sandbox.send_signal(process.pid, 15)
    until("it ended", lambda: value(sandbox.get_process(process.pid)).status.value != "running")
    ended = value(sandbox.get_process(process.pid))
    assert (ended.status.value, ended.signal) == ("signaled", 15), ended

    process = sandbox.start_process("sleep", ["1000"])
    sandbox.kill_process(process.pid)
    until("it ended", lambda: value(sandbox.get_process(process.pid)).signal == 9)
    raises(SandboxError, lambda: sandbox.get_process(999999))
    raises(SandboxError, lambda: sandbox.write_stdin(process.pid, b"x"))


def files(sandbox):
    for contents in [b"", b"x", bytes(range(256)) * 40_000]:
        sandbox.write_file("/data/deep/file", contents)
        assert bytes(value(sandbox.read_file("/data/deep/file"))) == contents
        expected = hashlib.sha256(contents).hexdigest()
        assert sandbox.run("sha256sum", ["/data/deep/file"]).stdout.startswith(expected)
    with tempfile.NamedTemporaryFile() as local:
        local.write(os.urandom(3_000_000))
        local.flush()
        sandbox.upload_file(local.name, "/data/uploaded")
        with open(local.name, "rb") as again:
            assert bytes(value(sandbox.read_file("/data/uploaded"))) == again.read()
    listing = value(sandbox.list_directory("/data"))
    found = [(entry.name, entry.is_dir, entry.size) for entry in listing.entries]
    assert found == [("deep", True, None), ("uploaded", False, 3_000_000)], found
    sandbox.delete_file("/data/uploaded")
    raises(SandboxError, lambda: sandbox.read_file("/data/uploaded"))
    raises(SandboxError, lambda: sandbox.read_file("/data/../etc/passwd"))
    raises(SandboxError, lambda: sandbox.list_directory("/data/deep/file"))


def terminals(sandbox):
    shown, codes = bytearray(), []
    script = 'stty size; while read line; do eval "$line"; done; exit 7'
    pty = sandbox.create_pty(
        "sh",
        ["-c", script],
        env={"A": "b"},
        working_dir="/usr",
        rows=30,
        cols=100,
        on_data=shown.extend,
        on_exit=codes.append,
    )
    until("its size is shown", lambda: b"30 100" in shown)
    pty.resize(120, 40)
    pty.send_input("stty size; echo $A; pwd\r")
    until("its other size is shown", lambda: b"40 120\r\nb\r\n/usr\r\n" in shown)
    # This client hangs up itself where nothing comes for ten seconds, pings included.
    time.sleep(12)
    assert pty.connected
    pty.send_input(bytes([4]))
    assert (pty.wait(20), codes) == (7, [7])
    raises(SandboxError, pty.connect)

    # Left, and found again by its id and token.
    shown.clear()
    session = value(sandbox.create_pty_session("sh", ["-c", "stty -echo; while read a; do echo \"<$a>\"; done"]))
    pty = sandbox.connect_pty(session["session_id"], session["token"], on_data=shown.extend)
    pty.send_input("one\r")
    until("it answers", lambda: b"<one>" in shown)
    pty.disconnect()
    assert not pty.connected
    again = sandbox.connect_pty(session["session_id"], session["token"], on_data=shown.extend)
    again.send_input("two\r")
    until("it answers", lambda: b"<two>" in shown)
    again.send_input(bytes([3]))
    assert again.wait(20) == -1, "a signal has no code"

    # Any bytes; more at once than fits into one piece of the way.
    shown.clear()
    pty = sandbox.create_pty("sh", ["-c", "stty raw -echo; echo ready; head -c 60000 | sha256sum"], on_data=shown.extend)
    until("it is ready", lambda: b"ready" in shown)
    contents = bytes(range(256)) * 235
    pty.send_input(contents[:60000])
    assert pty.wait(20) == 0
    assert hashlib.sha256(contents[:60000]).hexdigest().encode() in shown, shown

    pty = sandbox.create_pty("sleep", ["1000"])
    pty.kill()
    # This one cannot read why a socket was closed; the asynchronous one can.
    raises(SandboxError, lambda: pty.wait(20))
    raises(SandboxError, pty.kill)
    raises(SandboxError, lambda: sandbox.create_pty("no-such-program"))
    raises(SandboxError, lambda: sandbox.connect_pty(session["session_id"], "wrong"))
    asyncio.run(asynchronous_terminals(sandbox.sandbox_id))


async def asynchronous_terminals(sandbox_id):
    sandbox = await AsyncSandbox.connect(sandbox_id, api_url=URL, api_key=KEY)
    shown = bytearray()
    pty = await sandbox.create_pty("sh", ["-c", "read a; stty size; exit 5"], on_data=shown.extend)
    await pty.resize(90, 33)
    await pty.send_input("x\r")
    assert await pty.wait(20) == 5
    assert b"33 90" in shown, shown
    pty = await sandbox.create_pty("cat")
    await pty.kill()
    try:
        await pty.wait(20)
    except SandboxError as error:
        assert "terminated" in str(error), error
    else:
        raise AssertionError("a killed terminal was waited for")


def daemon(sandbox):
    assert value(sandbox.health()).healthy
    info = value(sandbox.daemon_info())
    assert info.version and info.total_processes > 0, info


def names(sandbox):
    assert sandbox.status.value == "running"
    sandbox.name = "renamed"
    assert client().get("renamed").value.sandbox_id == sandbox.sandbox_id
    connected = Sandbox.connect("renamed", api_url=URL, api_key=KEY)
    assert connected.run("echo", ["hello"]).stdout == "hello"
    error = raises(SandboxError, lambda: create(name="renamed"))
    assert "exists already" in str(error), error
    assert sandbox.sandbox_id in [one.sandbox_id for one in client().list()]
    again = Sandbox.get_or_create("renamed", api_url=URL, api_key=KEY)
    assert (again.sandbox_id, again.bind_outcome) == (sandbox.sandbox_id, "attached")


def suspension(sandbox):
    process = sandbox.start_process("sh", ["-c", "while :; do date +%N > /tmp/tick; sleep 0.02; done"])
    sandbox.suspend()
    assert client().get(sandbox.sandbox_id).value.status.value == "suspended"
    sandbox.resume()
    assert sandbox.status.value == "running"
    assert value(sandbox.get_process(process.pid)).status.value == "running"
    sandbox.suspend()
    # A request wakes it.
    assert sandbox.run("echo", ["awake"]).stdout == "awake"
    sandbox.kill_process(process.pid)


def pending():
    handle = create(wait=False)
    until("it runs", lambda: client().get(handle.sandbox_id).value.status.value == "running")
    client().delete(handle.sandbox_id)


def refusals(sandbox):
    error = raises(SandboxError, lambda: sandbox.checkpoint())
    assert "not supported" in str(error), error
    error = raises(SandboxError, lambda: list(client().list_pools()))
    assert "not supported" in str(error), error
    error = raises(SandboxError, lambda: list(client().list_snapshots()))
    assert "not supported" in str(error), error
    error = raises(SandboxError, lambda: create(snapshot_id="s"))
    assert "not supported" in str(error), error
    error = raises(SandboxError, lambda: sandbox.start_process("true", name="web"))
    assert "not supported" in str(error), error
    raises(SandboxNotFoundError, lambda: client().get("nobody"))
    raises(SandboxError, lambda: client(key="wrong").get(sandbox.sandbox_id))
    nameless = create()
    error = raises(SandboxError, lambda: nameless.suspend())
    assert "without a name" in str(error), error
    nameless.terminate()


def end(sandbox):
    sandbox.terminate()
    assert client().get(sandbox.sandbox_id).value.status.value == "terminated"
    client().delete(sandbox.sandbox_id)
    assert sandbox.sandbox_id not in [one.sandbox_id for one in client().list()]


def main():
    sandbox = create(name="first", cpus=1.0, memory_mb=512)
    parts = [run, processes, terminals, files, daemon, names, suspension, refusals]
    failed = []
    for part, arguments in [(part, [sandbox]) for part in parts] + [(pending, []), (end, [sandbox])]:
        began = time.time()
        try:
            part(*arguments)
            print(f"{part.__name__}: good, {time.time() - began:.1f} s", flush=True)
        except Exception:
            failed.append(part.__name__)
            traceback.print_exc()
    if failed:
        print(f"failed: {', '.join(failed)}")
        sys.exit(1)


main()
