# Short names for the usual commands (https://just.systems). `just` lists them; nothing here needs `just` to run.

[private]
default:
    @just --list --unsorted

# Start a broker with an embedded store, a simulated CSP and development tokens
run *flags:
    cargo run --release -- {{ flags }}

# Run all tests
test *arguments:
    cargo test --workspace {{ arguments }}

# Check format, lints, dependencies and tests
check:
    .ci/run fmt clippy deny test

# Run one step of CI, or several (`.ci/run --list` shows them)
step +names:
    .ci/run {{ names }}

# Rewrite what the program generates: docs/openapi.json, docs/reference/ and variables_broker.tf in terraform/
snapshots:
    BROKER_UPDATE_SNAPSHOT=1 cargo test --workspace --lib --test '*' snapshot
