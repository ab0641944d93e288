#!/usr/bin/env python3
"""Draws docs/review.svg: forge diff and forge apply at a terminal, as they really are.

    cargo build --release --package forge-cli && python3 docs/review-picture.py target/release/forge
"""

import html
import os
import pty
import re
import select
import subprocess
import sys
import tempfile
import unicodedata

FORGE = os.path.realpath(sys.argv[1] if len(sys.argv) > 1 else "target/release/forge")
PLACE = tempfile.mkdtemp()
HOME, PROJECT = os.path.join(PLACE, "home"), os.path.join(PLACE, "project")
COLUMNS, LINE, CHARACTER = 118, 18, 8.43
COLORS = {"31": "#e06c75", "32": "#98c379", "33": "#e5c07b", "36": "#56b6c2"}
ENVIRONMENT = {"HOME": HOME, "PATH": "/usr/bin:/bin", "TERM": "xterm-256color", "PAGER": "cat"}


def write(path, text):
    path = os.path.join(PROJECT, path)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w") as file:
        file.write(text)


def quietly(*arguments):
    subprocess.run([FORGE, *arguments], cwd=PROJECT, env=ENVIRONMENT, capture_output=True, check=True)


def at_a_terminal(arguments, answers=()):
    """What a terminal shows, the answers that are typed included."""
    answers, shown = list(answers), b""
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(PROJECT)
        os.environ.update(COLUMNS=str(COLUMNS))
        os.execve(FORGE, ["forge", *arguments], ENVIRONMENT)
    answered = 0
    while True:
        ready, _, _ = select.select([terminal], [], [], 0.5)
        if ready:
            try:
                piece = os.read(terminal, 65536)
            except OSError:
                break
            if not piece:
                break
            shown += piece
        elif answers and len(shown) > answered:
            answered = len(shown)
            os.write(terminal, answers.pop(0).encode() + b"\n")
    os.waitpid(pid, 0)
    return shown.decode().replace("\r", "").rstrip("\n").split("\n")


def wrapped(line):
    """The rows that a terminal makes of a line; what goes on has no style in ours."""
    rows, row, count = [], "", 0
    for piece in re.findall(r"\x1b\[[0-9;]*m|.", line):
        count += 0 if piece.startswith("\x1b") else 1
        if count > COLUMNS:
            rows, row, count = rows + [row], "", 1
        row += piece
    return rows + [row]


def width(text):
    return sum(2 if unicodedata.east_asian_width(one) in "WF" else 1 for one in text)


def drawn(line, y):
    """One line as text, and rectangles behind what is set off."""
    parts, x, codes = [], 0, set()
    for piece in re.split(r"(\x1b\[[0-9;]*m)", line):
        if piece.startswith("\x1b["):
            for code in piece[2:-1].split(";"):
                codes = set() if code in ("", "0") else codes | {code}
            continue
        if not piece:
            continue
        color = next((COLORS[code] for code in codes if code in COLORS), "#d7dae0")
        left = 16 + x * CHARACTER
        if "7" in codes:
            size = width(piece) * CHARACTER
            parts.append(f'<rect x="{left:.1f}" y="{y - 13}" width="{size:.1f}" height="{LINE}" fill="{color}"/>')
            color = "#1e2127"
        weight = ' font-weight="bold"' if "1" in codes else ""
        parts.append(f'<text x="{left:.1f}" y="{y}" fill="{color}"{weight}>{html.escape(piece)}</text>')
        x += width(piece)
    return "".join(parts)


os.makedirs(HOME)
write("src/lib.rs", "//! Sums.\n\n/// The sum of all.\npub fn sum(all: &[u32]) -> u32 {\n    let mut sum = 0;\n    for one in all {\n        sum += one;\n    }\n    sum\n}\n")
write("README.md", "# Sums\n\nAdds up.\n")
write("notes.txt", "one\n")
quietly(
    "exec", "-c",
    "sed -i 's/u32 {/u64 {/; s/let mut sum = 0;/let mut sum = 0u64;/; s/sum += one;/sum += u64::from(*one);/' src/lib.rs\n"
    "mkdir tests; printf '#[test]\\nfn nothing_sums_up_to_nothing() {\\n    assert_eq!(sums::sum(&[]), 0);\\n}\\n' >tests/sum.rs\n"
    "echo 'the session' >notes.txt; echo 'export PATH=.:$PATH' >.envrc",
)
write("notes.txt", "the project\n")
lines = ["$ forge diff src"] + at_a_terminal(["diff", "src"])
lines += ["", "$ forge apply"] + at_a_terminal(["apply"], ["y", "n", "l"])
lines += ["", "$ forge apply --undo"] + at_a_terminal(["apply", "--undo"])
lines = [row for line in lines for row in wrapped(line)]
height = 24 + len(lines) * LINE
body = "\n".join(drawn(line, 28 + number * LINE) for number, line in enumerate(lines))
picture = (
    f'<svg xmlns="http://www.w3.org/2000/svg" width="{32 + COLUMNS * CHARACTER:.0f}" height="{height}" '
    'font-family="DejaVu Sans Mono, Menlo, Consolas, monospace" font-size="14" xml:space="preserve">\n'
    f'<rect width="100%" height="100%" rx="8" fill="#1e2127"/>\n{body}\n</svg>\n'
)
with open(os.path.join(os.path.dirname(os.path.realpath(__file__)), "review.svg"), "w") as file:
    file.write(picture)
subprocess.run(["rm", "-rf", PLACE], check=True)
