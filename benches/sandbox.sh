#!/usr/bin/env bash
# The whole `forge exec -- true` beside bubblewrap with equivalent flags and the bare command, interleaved
# in one run; and `cargo build` of a small crate inside and outside. Needs hyperfine and bwrap.
#
#   cargo build --release -p forge-cli && benches/sandbox.sh target/release/forge
set -euo pipefail
forge=$(realpath "${1:-target/release/forge}")
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
export FORGE_STATE_DIR=$place/state
mkdir "$place/project"
cd "$place/project"
bwrap="bwrap --unshare-all --die-with-parent --ro-bind /usr /usr --symlink usr/bin /bin --symlink usr/lib /lib
    --symlink usr/lib64 /lib64 --ro-bind /etc /etc --proc /proc --dev /dev --tmpfs /tmp --tmpfs /home
    --bind $place/project $place/project --chdir $place/project true"
for _ in 1 2 3; do
    hyperfine -N --warmup 3 -r 40 --style none --export-json "$place/times" "$forge exec -- true" "$(echo $bwrap)" true >/dev/null
    python3 - "$place/times" <<'P'
import json, sys
forge, bwrap, bare = (result["median"] * 1000 for result in json.load(open(sys.argv[1]))["results"])
print(f"forge exec -- true {forge:.2f} ms, bwrap {bwrap:.2f} ms, true {bare:.2f} ms; ratio to bwrap {forge / bwrap:.2f}")
P
done
cargo init -q --lib --name small .
seq 400 | awk '{print "pub fn f" $1 "() -> u64 { (0.." $1 ").map(|n| n * 3).sum() }"}' >>src/lib.rs
outside=$(mktemp -d -p "$place")
for _ in 1 2 3; do
    rm -rf "$outside"/* target
    begin=$(date +%s%N); CARGO_TARGET_DIR=$outside cargo build -q --release --offline; middle=$(date +%s%N)
    "$forge" exec --fresh -- cargo build -q --release --offline 2>/dev/null; end=$(date +%s%N)
    echo "cargo build outside $(((middle - begin) / 1000000)) ms, inside $(((end - middle) / 1000000)) ms"
done
