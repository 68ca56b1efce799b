# `just` lists the recipes; `just ci` is exactly what CI runs.

[private]
default:
    @just --list --unsorted

# Everything that must pass before a merge
ci:
    bash .ci/run

# Server and agent in one process, ready to use
up *args:
    cargo run --release --locked -- up {{ args }}

fmt:
    cargo fmt --all

fmt-check:
    cargo fmt --all --check

lint:
    cargo clippy --workspace --all-targets --locked -- -D warnings

# Crates may depend on lower ranks only
layers:
    cargo xtask layers

# Writes the gRPC code from the .proto files
generate:
    cargo xtask generate

# Unit, property and whole-process tests; needs no network, no root and no other program
test *args:
    cargo nextest run --workspace --locked {{ args }}
    cargo test --workspace --doc --locked

# 200 seeds of the simulation (docs/simulation.md)
sim *args:
    cargo run --locked -p vouchsafe-sim -- --seeds 200 {{ args }}

# Thousands of seeds, from another place each time
soak seeds="5000":
    cargo run --locked -p vouchsafe-sim -- --seeds {{ seeds }} --first $(date +%s)

# An incident, or all of them, against real processes
replay *args:
    cargo run --release --locked -p vouchsafe-replay -- {{ args }}

doc:
    RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --locked

# Licences, sources and banned crates
deny:
    cargo deny --locked check bans licenses sources

# The release binary against clients that nobody here wrote
interop *parts:
    bash interop/run clients {{ parts }}

# The commands of docs/identity.md, or of other pages, with the release binary
docs *pages:
    docs/check {{ pages }}

# Medians next to the limit measured in the same run
bench:
    cargo bench --locked -p vouchsafe-ca --bench issuance
    cargo bench --locked -p vouchsafe-agent --bench workload_api
    cargo bench --locked -p vouchsafe --bench memory

# SPIRE and ours side by side; `just bench-spire --quick` takes under three minutes
bench-spire *args:
    bash bench/spire {{ args }}

# One fuzz target, or all of them, for so many seconds each
fuzz target="all" seconds="60":
    fuzz/run {{ target }} {{ seconds }}

# Weekly: which lines can change without a test noticing?
mutants *args:
    cargo mutants --workspace {{ args }}
