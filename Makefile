# What a developer needs: `make test`, `make lint`, `make demo`.
.PHONY: help test lint demo
help: ## Say what there is
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/:/'

test: ## All tests, against stand-ins of VirusTotal and the dispatcher on 127.0.0.1
	cargo test --workspace --locked

lint: ## Format and compiler warnings
	cargo fmt --all --check
	RUSTFLAGS="-D warnings" cargo check --workspace --all-targets --locked --target-dir target/lint

demo: ## A synthetic feed goes through a killed and resumed load, and a posted bundle; then all is counted
	cargo build --workspace --locked
	./testdata/demo.sh
