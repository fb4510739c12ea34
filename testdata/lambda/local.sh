#!/usr/bin/env bash
# Serves the five Lambdas at 127.0.0.1:9000 (LOCAL_PORT) through `cargo lambda watch`, as they are built in
# target/debug (LOCAL_BIN), until it is told to end. Settings come from the environment; the state is in STATEDIR.
# A function that lacks a setting says which, and is not there. Takes the directory of the virtual environment with
# cargo-lambda.
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
port=${LOCAL_PORT:-9000}
bin=${LOCAL_BIN:-$root/target/debug}
PATH=$(cd "$1" && pwd)/bin:$PATH
export STATEDIR=${STATEDIR:-$root/target/local}

finish() { # shellcheck disable=SC2046 # a word each
    kill $(jobs -p) 2>/dev/null || true
    wait
}
trap finish EXIT
trap 'exit 0' INT TERM

# Without functions of its own: it would build each anew.
cargo lambda watch --only-lambda-apis -A 127.0.0.1 -P "$port" --manifest-path "$root/Cargo.toml" &
until (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; do
    kill -0 $! || exit 1
    sleep 0.1
done
for function in load ingest query download hunt; do
    AWS_LAMBDA_RUNTIME_API=http://127.0.0.1:$port/.rt/$function AWS_LAMBDA_FUNCTION_NAME=$function \
        AWS_LAMBDA_FUNCTION_VERSION='$LATEST' AWS_LAMBDA_FUNCTION_MEMORY_SIZE=512 "$bin/$function" &
done
echo "the Lambdas are at http://127.0.0.1:$port: make invoke FN=load EVENT=schedule; function URLs: /lambda-url/<name>/"
wait
