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
    cargo test --package forge-conformance --package forge-infra-local --test conformance

# What CI checks besides the tests.
lint:
    cargo fmt --all --check
    cargo clippy --workspace --all-targets --locked -- --deny warnings
    RUSTDOCFLAGS="--deny warnings" cargo doc --workspace --no-deps --locked
    cargo xtask rooms

# Measures start-up, commands and a session of 50 calls.
bench:
    cargo bench --package forge-cli

# Shows the main job without a key.
demo:
    cargo xtask demo
