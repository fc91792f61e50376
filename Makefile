# make demo   the main job on this one machine: three nodes behind NATs form a group and reach each other
# make test   every check and test; installs what is missing (needs root, or sudo)
# make bench  the figures, measured on this machine

export CARGO_TARGET_DIR ?= $(HOME)/.cache/ipop/target

.PHONY: demo test bench build

build:
	cargo build --release -p ipop

demo:
	./.ci/install demo
	cargo build --release -p ipop -p lab
	./lab/demo

test:
	./.ci/install
	cargo fmt --all --check
	cargo xtask tidy
	cargo clippy --workspace --all-targets -- -D warnings
	cargo deny --log-level error check bans licenses sources
	cargo build -p ipop
	cargo nextest run --workspace --no-fail-fast

bench:
	./.ci/install
	./bench/run
