# `cargo install just`, then `just` lists what there is.

_default:
    @just --list

# Type-check everything.
check:
    cargo check --workspace --all-targets

# All tests; pulls the models they need (about 840 MB, once).
test:
    cargo test --workspace

# The encoder against the reference's golden data.
golden:
    cargo test --workspace --test reference

# The benches; see benches/README.md.
bench:
    cargo bench --manifest-path benches/Cargo.toml

# What a change must pass.
ci:
    .ci/run
