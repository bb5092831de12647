# `just ci` is what .ci/run does. Every recipe is one plain command, so nothing depends on just.

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

# Tests.
test:
    cargo test

# Licences, advisories and sources of dependencies; needs cargo-deny.
deny:
    cargo deny check

# Everything that a change must pass.
ci:
    .ci/run

# Writes tests/golden again from timm and transformers; needs torch and safetensors too.
golden:
    python tests/golden/generate.py
    python tests/golden/vit_checkpoint.py
    cargo test --test it golden_repositories -- --ignored

# Stock Hub clients of this Python against the program that was built last.
interop:
    python tests/interop/hub.py

# Benchmarks.
bench:
    cargo bench
