# Conveniences. Everything here is plain cargo; nothing needs just.

# Lists the recipes.
default:
    @just --list

# Builds forge as it is released.
build:
    cargo build --release --package forge-cli

# Runs every test.
test:
    cargo test --workspace

# Runs the promises of the ports against every adapter, by name.
contract:
    cargo test --package forge-conformance --package forge-infra-local --package forge-infra-sandbox --package forge-infra-tensorlake --package forge-sandboxd --test conformance
    cargo test --package forge-infra-tensorlake --test contract --test lifecycle --test gone --test hostile --test corpus

# Runs the live test against Tensorlake's real service; needs TENSORLAKE_API_KEY, and costs money.
live:
    cargo test --package forge-infra-tensorlake --test live -- --ignored

# What CI checks besides the tests.
lint:
    cargo fmt --all --check
    cargo clippy --workspace --all-targets --locked -- --deny warnings
    RUSTDOCFLAGS="--deny warnings" cargo doc --workspace --no-deps --locked
    cargo xtask rooms

# Measures start-up, commands and a session of 50 calls; and what a microVM's client adds to a command.
bench:
    cargo bench --package forge-cli
    cargo bench --package forge-infra-tensorlake
    cargo bench --package forge-infra-sandbox

# Shows the main job without a key.
demo:
    cargo xtask demo
