# What a developer needs: `make help` lists it.
.PHONY: help test aws azul lint soak demo lambda local invoke bench infra infra-check demo-aws deploy destroy
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

lint: ## Format, clippy and documents, all without a warning
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --locked -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --locked

ifeq ($(STATE),aws)
demo: aws
endif
demo: ## A synthetic feed through a killed and resumed load, and a posted bundle; then README's own commands. STATE=aws: on the emulator
	cargo build --workspace --locked
	./testdata/demo.sh
	$(if $(filter aws,$(STATE)),,./testdata/examples.sh)

lambda: aws ## The Lambdas, attached to `cargo lambda watch` and invoked with testdata/events, on the emulator
	cargo build --workspace --examples --bins --locked
	@./testdata/install.sh target/lambda testdata/lambda/requirements.txt
	./testdata/lambda/lambda.py target/lambda

local: ## The Lambdas served at 127.0.0.1:9000 with their state on this machine, until Ctrl-C; settings as for vt
	cargo build --workspace --locked
	@./testdata/install.sh target/lambda testdata/lambda/requirements.txt
	./testdata/lambda/local.sh target/lambda

invoke: ## One of them invoked: FN=load EVENT=schedule, or any file
	PATH=target/lambda/bin:$$PATH cargo lambda invoke $(FN) -A 127.0.0.1 -P $${LOCAL_PORT:-9000} \
		--data-file $(if $(wildcard testdata/events/$(EVENT).json),testdata/events/$(EVENT).json,$(EVENT))

soak: aws ## 72 hours of feed through 8 processes that are killed all along, on the emulator; then ten minutes of vt serve. SOAK_MINUTES=240 SERVE_SOAK_SECONDS=60 is quick
	cargo build --workspace --locked
	./testdata/soak.py
	SERVE_SOAK_SECONDS=$${SERVE_SOAK_SECONDS:-600} cargo test --workspace --locked --test it serves::nothing -- --nocapture

bench: ## Time and memory of a 100 MB bundle beside bzip2; BENCH_RUNS=1 is quick, BENCH_WRITE=1 renews the documents
	cargo build --release --workspace --locked
	./testdata/bench.py

infra: ## What looks at infra/template.yaml and deploys it, in virtual environments of Python; installed once
	@./testdata/install.sh target/infra infra/requirements.txt
	@./testdata/install.sh target/checkov infra/requirements-checkov.txt

infra-check: infra ## The template: cfn-lint, SAM, checkov, and what it has to agree with; needs no account
	target/infra/bin/cfn-lint --regions us-east-1 -- infra/template.yaml
	SAM_CLI_TELEMETRY=0 AWS_DEFAULT_REGION=us-east-1 target/infra/bin/sam validate --lint --template infra/template.yaml
	BC_SKIP_MAPPING=TRUE target/checkov/bin/checkov --config-file infra/checkov.yaml --file infra/template.yaml
	target/infra/bin/python infra/check.py

demo-aws: infra ## The template deployed on the emulator of AWS with what `make package` made, used, and deleted
	target/infra/bin/python infra/demo_aws.py

deploy: infra ## The template deployed with what `make package` made, as infra/samconfig.toml says; asks first
	cd infra && SAM_CLI_TELEMETRY=0 ../target/infra/bin/sam deploy

destroy: infra ## The stack deleted, but for its table and its bucket; asks first
	cd infra && SAM_CLI_TELEMETRY=0 ../target/infra/bin/sam delete
