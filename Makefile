# What a developer needs: `make help` lists it.
.PHONY: help test aws azul lint soak demo cargo-lambda lambda local invoke bench backlog budget fuzz paths package lambda-release coldstart sbom
.PHONY: infra infra-check demo-aws deploy destroy lint-tools dependencies advisories
help: ## Say what there is
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/:/'

test: aws azul ## All tests, against stand-ins of VirusTotal, the dispatcher and AWS on 127.0.0.1
	cargo test --workspace --locked

# The path is where the tests look for it.
export AZUL_VT_AWS ?= $(CURDIR)/target/aws
aws: ## The emulator of AWS that tests talk to, in a virtual environment of Python; installed once
	@./testdata/install.sh "$$AZUL_VT_AWS" testdata/aws/requirements.txt

# The library says that it wants a later Python than many machines have; what the tests use of it does not.
export AZUL_VT_AZUL ?= $(CURDIR)/target/azul
azul: ## Azul's own library, whose models check what the tests post; installed once
	@./testdata/install.sh "$$AZUL_VT_AZUL" testdata/azul/requirements.txt --ignore-requires-python

lint: dependencies ## Format, clippy, documents and dependencies, all without a warning
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --locked -- -D warnings
	cargo clippy -p vt --no-default-features --locked -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --locked

# The database of advisories is a repository on GitHub, which a build machine may not reach; licences, duplicate versions
# and sources need no more than the crates. cargo-shear also finds dependencies that only tests use.
LINT_TOOLS := target/lint
lint-tools:
	@./testdata/install.sh $(LINT_TOOLS) testdata/lint/requirements.txt

dependencies: lint-tools ## Licences, duplicate versions and sources of all crates (deny.toml), and dependencies that nothing uses
	@if test -x $(LINT_TOOLS)/bin/cargo-deny; then set -ex; \
	$(LINT_TOOLS)/bin/cargo-deny --locked check --hide-inclusion-graph -D warnings bans licenses sources; \
	$(LINT_TOOLS)/bin/cargo-shear --locked; fi
	@echo "dependencies: NOT CHECKED for known vulnerabilities, because their database is on GitHub; \`make advisories\` checks them"

advisories: lint-tools ## Known vulnerabilities and withdrawn versions of all crates; needs GitHub
	$(LINT_TOOLS)/bin/cargo-deny --locked check advisories

ifeq ($(STATE),aws)
demo: aws
endif
demo: ## A synthetic feed through a killed and resumed load, and a posted bundle; then the commands of the documents. STATE=aws: on the emulator
	cargo build --workspace --locked
	./testdata/demo.sh
	$(if $(filter aws,$(STATE)),,./testdata/examples.sh)

# Not target/lambda: there cargo-lambda puts the functions.
cargo-lambda:
	@./testdata/install.sh target/cargo-lambda testdata/lambda/requirements.txt

lambda: aws cargo-lambda ## The Lambdas, attached to `cargo lambda watch` and invoked with testdata/events, on the emulator
	cargo build --workspace --examples --bins --locked
	./testdata/lambda/lambda.py target/cargo-lambda

local: cargo-lambda ## The Lambdas served at 127.0.0.1:9000 with their state on this machine, until Ctrl-C; settings as for vt
	cargo build --workspace --locked
	./testdata/lambda/local.sh target/cargo-lambda

invoke: ## One of them invoked: FN=load EVENT=schedule, or any file
	PATH=target/cargo-lambda/bin:$$PATH cargo lambda invoke $(FN) -A 127.0.0.1 -P $${LOCAL_PORT:-9000} \
		--data-file $(if $(wildcard testdata/events/$(EVENT).json),testdata/events/$(EVENT).json,$(EVENT))

soak: aws ## 72 hours of feed through 8 processes that are killed all along, on the emulator; then ten minutes of vt serve, then fuzz. SOAK_MINUTES=240 SERVE_SOAK_SECONDS=60 FUZZ_SECONDS=15 is quick
	cargo build --workspace --locked
	./testdata/soak.py
	SERVE_SOAK_SECONDS=$${SERVE_SOAK_SECONDS:-600} cargo test --workspace --locked --test it serves::nothing -- --nocapture
	$(MAKE) fuzz

# Every release build here is the same one, so that what is measured is what is deployed, and it is made once.
ARCH ?= x86_64
TRIPLE := $(if $(filter arm64,$(ARCH)),aarch64,$(ARCH))-unknown-linux-gnu
TARGET := $(or $(CARGO_TARGET_DIR),target)
RELEASE := --release --workspace --locked --target $(TRIPLE) --config $(TARGET)/paths.toml
export RELEASE_DIR := $(TARGET)/$(TRIPLE)/release

# Panics name source files, and where cargo keeps those of other crates differs from user to user: programs have
# `/crates` instead. Of the workspace they name no more than `shared/…`.
paths:
	@cargo fetch --quiet --locked --target $(TRIPLE)
	@mkdir -p $(TARGET)
	@{ echo '[build]'; echo 'rustflags = ['; \
	for at in "$${CARGO_HOME:-$$HOME/.cargo}"/registry/src/*; do echo "'--remap-path-prefix=$$at=/crates',"; done; \
	echo ']'; } > $(TARGET)/paths.toml

# cargo-lambda's own optimisations end processes at a panic and need a newer processor; the profile here decides.
package: cargo-lambda paths ## The functions for Lambda in target/lambda, the same bytes each time; ARCH=arm64 on such a machine
	PATH="$(CURDIR)/target/cargo-lambda/bin:$$PATH" cargo lambda build $(RELEASE) \
		--compiler cargo --disable-optimizations --lambda-dir $(TARGET)/lambda
	@# It moves programs; this puts them back to where a build leaves them, without building anything.
	cargo build --quiet $(RELEASE)
	./infra/package.py $(TARGET)/lambda $(ARCH)

lambda-release: package ## Every event through these functions as Lambda would send it, an error and a panic too
	cargo build $(RELEASE) --examples
	AZUL_VT_BIN=$(abspath $(RELEASE_DIR)) cargo test --workspace --locked --test it lambdas::

coldstart: package ## Start and memory of these functions; COLDSTART_RUNS=5 is quick, BENCH_WRITE=1 renews the document
	./testdata/coldstart.py $(TARGET)/lambda

bench: paths ## Time and memory of a 100 MB bundle beside bzip2; BENCH_RUNS=1 is quick, BENCH_WRITE=1 renews the document
	cargo build $(RELEASE)
	./testdata/bench.py

backlog: paths ## An hour's backlog, with and without 100 ms of latency at the dispatcher; BENCH_RUNS=1 is quick, BACKLOG_MINUTES=60
	cargo build $(RELEASE)
	./testdata/backlog.py

budget: paths ## Instructions that a small bundle costs, against testdata/budget.json; needs valgrind. BUDGET_WRITE=1 renews it
	cargo build $(RELEASE)
	./testdata/budget.py

# cargo-fuzz needs the nightly compiler; what it builds is beside everything else. All of this project is safe Rust, so
# no sanitizer watches: it would take most of the time to build, and half of the speed.
FUZZ_SECONDS ?= 600
fuzz: ## Bundles, bzip2, records, rules and webhooks that nobody thought of, FUZZ_SECONDS (600) each; needs a nightly Rust
	@cargo +nightly --version || { echo "fuzz: skipped, because no nightly Rust is installed"; exit 0; }; \
	cargo +nightly install --quiet --debug --locked --root target/cargo-fuzz cargo-fuzz@0.13.2 && \
	for target in bundle bzip2 record rules webhook; do \
		CARGO_TARGET_DIR=$(abspath $(TARGET))/fuzz PATH="$(CURDIR)/target/cargo-fuzz/bin:$$PATH" \
			cargo +nightly fuzz run --fuzz-dir testdata/fuzz --sanitizer none $$target -- -max_total_time=$(FUZZ_SECONDS) -print_final_stats=1 || exit 1; \
	done

# Nothing else needs this tool, so no check installs it. It writes beside each Cargo.toml; without a time and without
# the directory, so the same each time.
CYCLONEDX := $(CURDIR)/target/cargo-cyclonedx
sbom: ## What the programs are made of, as CycloneDX in target/lambda/sbom
	cargo install --quiet --debug --locked --root $(CYCLONEDX) cargo-cyclonedx@0.5.9
	PATH="$(CYCLONEDX)/bin:$$PATH" SOURCE_DATE_EPOCH=0 cargo cyclonedx --quiet --format json --spec-version 1.5 \
		--describe binaries --no-build-deps --target $(TRIPLE)
	@mkdir -p $(TARGET)/lambda/sbom
	@for at in functions/*/*_bin.cdx.json; do \
		sed 's#$(CURDIR)/##g' $$at > $(TARGET)/lambda/sbom/$$(basename $$at _bin.cdx.json).cdx.json && rm $$at; done
	@rm -f testdata/sim/sim_bin.cdx.json
	@echo "They are in $(TARGET)/lambda/sbom"

infra: ## What looks at infra/template.yaml and deploys it, in virtual environments of Python; installed once
	@./testdata/install.sh target/infra infra/requirements.txt
	@./testdata/install.sh target/checkov infra/requirements-checkov.txt

infra-check: infra ## The template: cfn-lint, SAM, checkov, and what it has to agree with; needs no account
	target/infra/bin/cfn-lint --regions us-east-1 -- infra/template.yaml
	SAM_CLI_TELEMETRY=0 AWS_DEFAULT_REGION=us-east-1 target/infra/bin/sam validate --lint --template infra/template.yaml
	BC_SKIP_MAPPING=TRUE target/checkov/bin/checkov --config-file infra/checkov.yaml --file infra/template.yaml
	target/infra/bin/python infra/check.py

demo-aws: infra package ## The template deployed on the emulator of AWS with what `make package` made, used, and deleted
	target/infra/bin/python infra/demo_aws.py

deploy: infra ## The template deployed with what `make package` made, as infra/samconfig.toml says; asks first
	cd infra && SAM_CLI_TELEMETRY=0 ../target/infra/bin/sam deploy

destroy: infra ## The stack deleted, but for its table and its bucket; asks first
	cd infra && SAM_CLI_TELEMETRY=0 ../target/infra/bin/sam delete
