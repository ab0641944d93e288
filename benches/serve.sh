#!/usr/bin/env bash
# The figures of `forge serve`, each beside what it is compared with, interleaved: a sandbox from its creation to its deletion;
# a command by forge's own client, by a bare one, and by the vendor's; a gigabyte through `run`; 64 MiB up and down.
# Needs python3 with venv, and the package index for the vendor's client.
#
#   cargo build --release -p forge-cli && benches/serve.sh target/release/forge
set -euo pipefail
forge=$(realpath "${1:-target/release/forge}")
cd "$(dirname "$0")/.."
place=$(mktemp -d)
trap 'kill "$server" 2>/dev/null && wait "$server" || true; rm -rf "$place"' EXIT
python3 -m venv "$place/python"
"$place/python/bin/pip" --quiet --disable-pip-version-check install --requirement crates/sandboxd/sdk/requirements.txt
export TENSORLAKE_API_KEY=k NO_PROXY=127.0.0.1 HOME=$place/home FORGE_STATE_DIR=$place/state
mkdir -p "$HOME" "$place/project"
FORGE_SERVE_API_KEY=k "$forge" serve --state-dir "$place/serve" >"$place/url" 2>/dev/null &
server=$!
until [ -s "$place/url" ]; do sleep 0.05; done
url=$(cat "$place/url")

CARGO_HOME=${CARGO_HOME:-$(dirname "$(dirname "$(command -v cargo)")")} RUSTUP_HOME=${RUSTUP_HOME:-$(getent passwd "$(id -un)" | cut -d: -f6)/.rustup} \
    cargo bench --quiet --package forge-infra-tensorlake --bench overhead -- "$url"
"$place/python/bin/python" -W ignore benches/serve.py "$url" "$forge" "$server" "$place/project"
