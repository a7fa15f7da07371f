# `cargo install just`, then `just` lists what there is.

_default:
    @just --list

# Type-check everything.
check:
    cargo check --release --workspace --all-targets

# All tests; pulls the models they need (about 840 MB, once).
test:
    cargo test --release --workspace

# The encoder against the reference's golden data.
golden:
    cargo test --release --workspace --test reference

# The same on Vulkan, where a driver is installed; builds for long.
vulkan:
    scripts/check-vulkan

# The benches; see benches/README.md.
bench:
    cargo bench --workspace

# The C header of the plugin ABI, from its Rust source.
header:
    cargo run --manifest-path tools/abi-header/Cargo.toml

# The picture of which rooms ask which, docs/rooms.md.
rooms:
    scripts/rooms

# What the library crates offer, docs/public-api; checks burn in a folder of its own.
public-api:
    scripts/public-api

# Every fuzz target, so many runs each; see fuzz/README.md.
fuzz runs="1000000":
    scripts/fuzz {{runs}}

# The tests of arc-adapters under AddressSanitizer.
sanitize:
    scripts/sanitize

# The kernels of the CPU under AddressSanitizer.
sanitize-kernels:
    scripts/sanitize-kernels

# The Python package's wheel; takes options of cargo, such as `--features cuda`.
wheel *options:
    scripts/wheel build {{options}}

# The tests of that wheel, in an empty environment; takes options of pytest.
wheel-test *options:
    scripts/wheel test {{options}}

# vLLM beside `arc` on latents, where it is installed; takes options of pytest.
vllm *options:
    scripts/check-vllm {{options}}

# The server, asked by OpenAI's Python client, where that is installed; takes options of pytest.
server *options:
    scripts/check-server {{options}}

# What a change must pass.
ci:
    .ci/run
