#!/usr/bin/env bash
# What the project's way into a microVM and back costs, against `forge serve` on the loopback: the first upload of this
# repository with its history, and of 10 000 small files, beside `tar c | tar x`; what a turn pays for one edit; and the same with
# 40 ms of latency, with the requests counted. Needs python3 and git. A disk that is slow with small files hides everything else:
# TMPDIR=/dev/shm.
#
#   cargo build --release -p forge-cli && benches/microvm.sh target/release/forge
set -euo pipefail
forge=$(realpath "${1:-target/release/forge}")
rounds=${2:-7}
cd "$(dirname "$0")/.."
place=$(mktemp -d)
trap 'kill "$server" 2>/dev/null && wait "$server" || true; rm -rf "$place"' EXIT
home=$(getent passwd "$(id -un)" | cut -d: -f6)
export CARGO_HOME=${CARGO_HOME:-$(dirname "$(dirname "$(command -v cargo)")")} RUSTUP_HOME=${RUSTUP_HOME:-$home/.rustup}
export TENSORLAKE_API_KEY=k NO_PROXY=127.0.0.1 HOME=$place/home FORGE_STATE_DIR=$place/state
mkdir -p "$HOME"
git clone --quiet --no-local . "$place/clone"
FORGE_SERVE_API_KEY=k "$forge" serve --state-dir "$place/serve" >"$place/url" 2>/dev/null &
server=$!
until [ -s "$place/url" ]; do sleep 0.05; done
url=$(cat "$place/url")

python3 benches/microvm.py "$url" "$forge" "$rounds" "$place"
cargo bench --quiet --package forge-api --bench microvm -- "$url"
