#!/usr/bin/env bash
# A synthetic feed goes through `vt load`, killed once and gone on with, past a minute that VirusTotal never
# produced; a bundle is posted to `vt ingest`; `vt hunt` brings hits, whose samples `vt download` fetches; then what
# arrived is compared with what there was.
# With STATE=aws the state is in a table and a bucket of an emulator of AWS, the rules in another bucket and the
# API key in Secrets Manager, else in directories and a variable. Needs the built workspace, Python 3 and for STATE=aws what
# `make aws` installs. Leaves nothing running.
set -euo pipefail
cd "$(dirname "$0")/.."
bin=${CARGO_TARGET_DIR:-target}/debug
work=$(mktemp -d)
pids=()
emulator_home=''
finish() {
    if [ $? != 0 ] && [ -n "$emulator_home" ]; then
        touch "$emulator_home/keep"
        echo "the log of the emulator of AWS is in $emulator_home/log"
    fi
    for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null || true; done
    wait 2>/dev/null || true
    rm -rf "$work"
}
trap finish EXIT
wait_for() { # FILE PID: until something is in FILE
    until [ -s "$1" ]; do
        kill -0 "$2"
        sleep 0.1
    done
}

records=64
minute() { date -u -d "@$1" +%Y%m%d%H%M; }
first=$(($(date +%s) / 60 * 60 - 3600))
missing=$(minute $((first + 120)))
posted=202601010000

hits=3
"$bin/sim" serve --records $records --missing "$missing" --samples $hits --hits $hits >"$work/urls" &
pids+=($!)
wait_for "$work/urls" $!
url() { python3 -c 'import json,sys; print(json.load(open(sys.argv[1]))[sys.argv[2]])' "$work/urls" "$1"; }
dispatcher=$(url dispatcher)
echo "stand-ins: VirusTotal at $(url virustotal), dispatcher at $dispatcher"

mkdir "$work/state"
# As the Go plugin leaves it: the first minute to load is `first`.
echo $((first - 60)) >"$work/state/v3_files"
export VIRUSTOTAL PLUGIN_DATA_URL=$dispatcher PLUGIN_EVENTS_URL=$dispatcher STATEDIR=$work/state
VIRUSTOTAL=$(url virustotal)
key=0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef
export RULES_ROOT=testdata/select_rules/example FEED_LAG_MINUTES=54 DISPATCHER_MAX_AGE_HOURS=-1 LOG=warn
case ${STATE:-local} in
local) export VIRUSTOTAL_APIKEY=$key ;;
aws)
    "$bin/sim" aws --secret "azul-vt/key=$key" >"$work/aws" &
    pids+=($!)
    wait_for "$work/aws" $!
    # shellcheck disable=SC1091 # written just now
    . "$work/aws"
    "$bin/vt" aws init >"$work/made"
    # shellcheck disable=SC1091
    . "$work/made"
    "${AZUL_VT_AWS:-target/aws}/bin/python" testdata/aws/objects.py \
        "$AWS_ENDPOINT_URL" azul-vt-rules vt/ "$RULES_ROOT"
    export VIRUSTOTAL_APIKEY_SECRET=azul-vt/key RULES_ROOT=s3://azul-vt-rules/vt/
    echo "emulator of AWS: $AWS_ENDPOINT_URL, table $STATE_TABLE, bucket $BUNDLE_BUCKET, rules $RULES_ROOT"
    ;;
*)
    echo "STATE is local or aws, not $STATE"
    exit 2
    ;;
esac

echo "== vt load, killed in its middle"
"$bin/vt" load &
victim=$!
python3 - "$dispatcher" <<'PY'
import json, sys, time, urllib.request
for attempt in range(600):
    with urllib.request.urlopen(sys.argv[1] + "/sim/summary", timeout=10) as answer:
        if json.load(answer)["binaries"] > 0:
            break
    time.sleep(0.02)
PY
kill -9 $victim 2>/dev/null || true
wait $victim 2>/dev/null || true
"$bin/vt" load --dry-run
echo "== vt load, to its end"
if [ "${STATE:-local}" = aws ]; then
    # Nobody sees there that the owner of a lease is dead: it runs out.
    echo "on AWS the lease of a killed process lasts for a minute; until then another says who has it"
    "$bin/vt" load 2>&1 | tee "$work/said"
    while grep -q 'another run is at work' "$work/said"; do
        sleep 10
        "$bin/vt" load 2>&1 | tee "$work/said"
    done
else
    "$bin/vt" load
fi
cursor=$("$bin/vt" load --dry-run | python3 -c 'import json,sys; print(json.load(sys.stdin)["cursor"])')

echo "== vt ingest, and a posted bundle"
port=$(python3 -c 'import socket; s=socket.socket(); s.bind(("127.0.0.1",0)); print(s.getsockname()[1])')
STATEDIR=$work/ingest INGEST_LISTEN=127.0.0.1:$port VIRUSTOTAL_APIKEY="" VIRUSTOTAL_APIKEY_SECRET="" "$bin/vt" tload &
pids+=($!)
"$bin/sim" feed --minute $posted --records $records --output "$work/posted.jsonl"
python3 - "$work/posted.jsonl" "$port" <<'PY'
import sys, time, urllib.request
body = open(sys.argv[1], "rb").read()
url = f"http://127.0.0.1:{sys.argv[2]}"
for attempt in range(100):
    try:
        urllib.request.urlopen(url + "/health", timeout=5)
        break
    except OSError:
        time.sleep(0.1)
request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
with urllib.request.urlopen(request, timeout=60) as answer:
    print(answer.status, answer.read().decode().strip())
PY

echo "== vt hunt, and vt download of what was hit"
CONTENT_HOSTS=$(url content) "$bin/vt" download &
downloading=$!
pids+=($downloading)
python3 - "$dispatcher" <<'PY'
import json, sys, time, urllib.request
for attempt in range(300):
    with urllib.request.urlopen(sys.argv[1] + "/sim/summary", timeout=10) as answer:
        if "VirustotalDownload" in json.load(answer)["registrations"]:
            break
    time.sleep(0.1)
# What is asked for before its first poll is not handed out to it.
time.sleep(3)
PY
"$bin/vt" hunt
python3 - "$dispatcher" $hits >"$work/hit" <<'PY'
import hashlib, sys, time, urllib.error, urllib.request
for n in range(1, int(sys.argv[2]) + 1):
    start = "%PDF-1.7" if n % 2 == 0 else "MZ"
    sample = f"{start}\nsample {n} of the stand-in for VirusTotal\n".encode()
    sha256 = hashlib.sha256(sample).hexdigest()
    url = f"{sys.argv[1]}/api/v3/stream/vtlivehunt/content/{sha256}"
    until = time.monotonic() + 60
    while True:
        try:
            with urllib.request.urlopen(url, timeout=10) as answer:
                stored = answer.read()
            break
        except urllib.error.HTTPError as error:
            if error.code != 404 or time.monotonic() > until:
                raise
            time.sleep(0.2)
    if stored != sample:
        sys.exit(f"sample {n} is stored as {stored!r}")
    print(sha256)
PY
kill $downloading
wait $downloading || true
echo "$(wc -l <"$work/hit") samples of hits are in Azul, byte for byte"

echo "== what arrived"
python3 - "$dispatcher" <<'PY'
import json, sys, urllib.request
with urllib.request.urlopen(sys.argv[1] + "/sim/summary", timeout=10) as answer:
    print(json.dumps(json.load(answer), indent=1)[:2000])
PY
minutes=($posted)
for ((at = first; ; at += 60)); do
    m=$(minute $at)
    [ "$m" != "$missing" ] && minutes+=("$m")
    [ "$m" = "$cursor" ] && break
    [ ${#minutes[@]} -gt 100 ] && { echo "the cursor $cursor is not where it should be"; exit 1; }
done
"$bin/sim" expected --records $records "${minutes[@]}" | cat - "$work/hit" >"$work/expected"
python3 - "$dispatcher" "$work/expected" <<'PY'
import json, sys, urllib.request
with urllib.request.urlopen(sys.argv[1] + "/sim/keys", timeout=10) as answer:
    arrived = set(json.load(answer))
expected = set(open(sys.argv[2]).read().split())
print(f"expected {len(expected)} files, {len(expected & arrived)} arrived, {len(arrived - expected)} others")
sys.exit(0 if arrived == expected else 1)
PY
"$bin/vt" status
echo "nothing was lost"
