"""The first upload of a project, beside `tar c | tar x`, interleaved: see microvm.sh."""

import os
import shutil
import statistics
import subprocess
import sys
import time

URL, FORGE, ROUNDS, PLACE = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4]


def milliseconds(call):
    begin = time.perf_counter()
    call()
    return (time.perf_counter() - begin) * 1000


def forge(project):
    command = [FORGE, "--tensorlake-url", URL, "exec", "--fresh", "--", "true"]
    done = subprocess.run(command, cwd=project, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def tar(project):
    there = os.path.join(PLACE, "there")
    os.mkdir(there)
    took = milliseconds(lambda: subprocess.run(
        ["sh", "-c", 'tar -C "$0" -c . | tar -C "$1" -x', project, there], check=True))
    shutil.rmtree(there)
    return took


def measure(name):
    project, empty = os.path.join(PLACE, name), os.path.join(PLACE, "empty")
    whole, nothing, piped = [], [], []
    for round in range(ROUNDS + 1):
        times = milliseconds(lambda: forge(project)), milliseconds(lambda: forge(empty)), tar(project)
        if round > 0:  # The first one warms the caches.
            for kept, took in zip((whole, nothing, piped), times):
                kept.append(took)
    upload = [one - other for one, other in zip(whole, nothing)]
    upload, whole, nothing, piped = map(statistics.median, (upload, whole, nothing, piped))
    print(f"{name}: forge exec -- true {whole:.0f} ms, in an empty project {nothing:.0f} ms, so the project costs "
          f"{upload:.0f} ms (with its list at the end); tar c | tar x {piped:.0f} ms; ratio {upload / piped:.2f}")


os.mkdir(os.path.join(PLACE, "empty"))
for number in range(10_000):
    directory = os.path.join(PLACE, "files", f"directory-{number // 100}")
    os.makedirs(directory, exist_ok=True)
    with open(os.path.join(directory, f"file-{number % 100}"), "w") as file:
        file.write(f"{number}\n" * 40)
for name in "clone", "files":
    measure(name)
