# `just ci` does the same as .ci/run. Every recipe consists of plain commands, so you can work without just.

default: ci

# Formatting.
fmt:
    cargo fmt --check

# Lints.
lint:
    cargo clippy --all-targets -- -D warnings

# Documentation, links included.
doc:
    RUSTDOCFLAGS="-D warnings" cargo doc --no-deps

# Random input for what reads files and requests.
fuzz seconds="120":
    fuzz/run {{seconds}}

# Tests.
test:
    cargo test

# Licences, advisories and sources of dependencies; needs cargo-deny.
deny:
    cargo deny check

# Every check that a change must pass.
ci:
    .ci/run

# Regenerates tests/golden with timm and transformers; also needs torch and safetensors.
golden:
    python tests/golden/generate.py
    python tests/golden/vit_checkpoint.py
    cargo test --test it golden_repositories -- --ignored

# Runs the Hub clients of this Python against the newest build of the program.
interop:
    python tests/interop/hub.py

# Benchmarks.
bench:
    cargo bench
