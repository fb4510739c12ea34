#!/usr/bin/env bash
# Runs the `sh` blocks of README.md, docs/jobs.md and docs/operations.md, line by line and in this order. Only addresses and
# minutes differ from what is written there: the dispatcher's address, the ports of `vt ingest` and `vt serve`, which may be
# taken on this machine, and the two minutes of the examples, which are replaced by minutes that were loaded. Checks what the
# commands answer and what arrives at the stand-ins. Needs the built workspace and Python 3. Leaves nothing running.
set -euo pipefail
cd "$(dirname "$0")/.."
root=$PWD
bin=$(cd "${CARGO_TARGET_DIR:-target}/debug" && pwd)
work=$(mktemp -d)
server='' standins=''
finish() {
    for pid in $server $standins; do kill "$pid" 2>/dev/null || true; done
    wait 2>/dev/null || true
    rm -rf "$work"
}
trap finish EXIT
fail() {
    echo "examples: $*" >&2
    exit 1
}

# A directory that looks like a clone to the commands, a home, and the programs they name.
mkdir "$work/home" "$work/clone" "$work/bin"
ln -s "$root/testdata" "$work/clone/testdata"
ln -s "$bin/vt" "$work/bin/vt"
shim() { # NAME: the program in Python, where the machine has none
    if command -v "$1" >/dev/null; then return; fi
    echo "examples: this machine has no $1; a few lines of Python stand in for it"
    { echo '#!/usr/bin/env python3'; cat; } >"$work/bin/$1"
    chmod +x "$work/bin/$1"
}
shim bzcat <<'PY'
import bz2, sys
sys.stdout.buffer.write(bz2.open(sys.argv[1]).read())
PY
shim curl <<'PY'
import sys, urllib.request
args = sys.argv[1:]
posts = "--data-binary" in args
header = dict([args[args.index("-H") + 1].split(": ", 1)]) if posts else {}
request = urllib.request.Request(args[-1], sys.stdin.buffer.read() if posts else None, header)
print(urllib.request.urlopen(request, timeout=60).read().decode(), end="")
PY

records=50 hits=3
sample=$(date -u +%Y%m%d%H%M)
"$bin/sim" feed --minute "$sample" --records $records --output "$work/clone/sample.json.bz2"
"$bin/sim" serve --records $records --key xxxx --samples $hits --hits $hits >"$work/urls" &
standins=$!
for _ in $(seq 100); do [ -s "$work/urls" ] && break; sleep 0.1; done
url() { python3 -c 'import json,sys; print(json.load(open(sys.argv[1]))[sys.argv[2]])' "$work/urls" "$1"; }
dispatcher=$(url dispatcher)
# Three ports at once, so that they differ.
read -r port operators webhooks < <(python3 -c '
import socket
held = [socket.socket() for _ in range(3)]
for one in held: one.bind(("127.0.0.1", 0))
print(*(one.getsockname()[1] for one in held))')
echo "dispatcher:8111 is ${dispatcher#http://} here, localhost:8854 is localhost:$port, localhost:8853 is localhost:$operators"

# What the commands do not say: where VirusTotal stands, and a start a few minutes ago rather than days.
VIRUSTOTAL=$(url virustotal)
CONTENT_HOSTS=$(url content)
export VIRUSTOTAL CONTENT_HOSTS INGEST_LISTEN=127.0.0.1:$port SERVE_LISTEN=127.0.0.1:$operators WEBHOOK_LISTEN=127.0.0.1:$webhooks
export FEED_BACKLOG_HOURS=1 FEED_LAG_MINUTES=58
export HOME=$work/home PATH=$work/bin:$PATH

# The commands, a line each, in the order in which they stand.
python3 - README.md docs/jobs.md docs/operations.md >"$work/commands" <<'PY'
import re, sys
for document in sys.argv[1:]:
    print("#", document)
    for block in re.findall(r"^```sh\n(.*?)^```", open(document).read(), re.M | re.S):
        print(block.replace("\\\n", " "), end="")
PY

# Waits until a file has a line.
wait_for_line() { # FILE TEXT
    for _ in $(seq 100); do
        if grep -q "$2" "$1"; then return; fi
        kill -0 "$server" 2>/dev/null || fail "it ended: $(cat "$1")"
        sleep 0.1
    done
    fail "it does not say \"$2\": $(cat "$1")"
}
# Waits until a plugin has registered itself at the dispatcher.
wait_for_plugin() { # NAME
    python3 - "$dispatcher" "$1" <<'PY' || fail "$1 does not register itself: $(cat "$work/server.log")"
import json, sys, time, urllib.request
for attempt in range(300):
    with urllib.request.urlopen(sys.argv[1] + "/sim/summary", timeout=10) as answer:
        if sys.argv[2] in json.load(answer)["registrations"]:
            sys.exit()
    time.sleep(0.1)
sys.exit(1)
PY
}
# Ends the command that runs until it is stopped, if there is one.
stop_server() {
    [ -n "$server" ] || return 0
    kill "$server"
    wait "$server" || fail "a command that was asked to end did not end well: $(cat "$work/server.log")"
    server=''
}
# The minutes that are loaded, a line each.
loaded() {
    vt status --json | python3 -c '
import datetime, json, sys
status = json.load(sys.stdin)
last = datetime.datetime.strptime(status["cursor"], "%Y%m%d%H%M")
for n in reversed(range(status["totals"]["loaded"])):
    print((last - datetime.timedelta(minutes=n)).strftime("%Y%m%d%H%M"))'
}

loads=0 servers=0 posts=0 first='' last=''
cd "$work/clone"
while IFS= read -r command <&3; do
    case $command in
    '') continue ;;
    '# docs/operations.md')
        # Its recipes for rejects need one.
        python3 - "http://localhost:$port" <<'PY' || fail "a bad record is not answered with 422"
import sys, urllib.error, urllib.request
request = urllib.request.Request(sys.argv[1], b'{"id":"not a hash"}\n', {"Content-Type": "application/json"})
try:
    urllib.request.urlopen(request, timeout=60)
except urllib.error.HTTPError as error:
    sys.exit(error.code != 422)
sys.exit(1)
PY
        continue
        ;;
    '#'*) continue ;;
    esac
    echo "\$ $command"
    here=${command//http:\/\/dispatcher:8111/$dispatcher}
    here=${here//http:\/\/localhost:8854/http://localhost:$port}
    here=${here//http:\/\/localhost:8853/http://localhost:$operators}
    here=${here//202611240857/$first}
    here=${here//202611240905/$last}
    case $command in
    'export '*)
        eval "$here"
        continue
        ;;
    *'vt ingest' | *'vt query' | *'vt download' | *'vt serve')
        stop_server
        bash -c "exec env $here" 2>"$work/server.log" &
        server=$!
        case $command in
        *ingest | *serve) wait_for_line "$work/server.log" 'listening on' ;;
        *query) wait_for_plugin VirustotalFileLookup ;;
        *download)
            wait_for_plugin VirustotalDownload
            # The dispatcher does not hand out what was requested before the first poll.
            sleep 3
            ;;
        esac
        cut -c1-160 "$work/server.log"
        servers=$((servers + 1))
        continue
        ;;
    esac
    code=0
    bash -o pipefail -c "$here" >"$work/out" 2>"$work/err" </dev/null || code=$?
    # Not curl's table of progress. All is read to its end: a pipe that closes early would be a failure.
    case $command in *curl*) ;; *) cut -c1-160 "$work/err" ;; esac
    cut -c1-160 "$work/out" | sed -n '1,3p'
    [ $code = 0 ] || fail "exit code $code"
    case $command in
    'vt load')
        grep -q "records, [1-9][0-9]* delivered" "$work/err" || fail "nothing was delivered"
        first=$(loaded | sed -n '1p') last=$(loaded | sed -n '$p')
        loads=$((loads + 1))
        ;;
    *curl*--data-binary*)
        [ "$(cat "$work/out")" = "read $records records" ] || fail "not the answer that was hoped for"
        posts=$((posts + 1))
        ;;
    'vt rejects list') grep -q '^rejects/' "$work/out" || fail "the rejected record is not listed" ;;
    *'vt rejects show') grep -q 'not a hash' "$work/out" || fail "the rejected record is not shown" ;;
    *'vt rejects retry') grep -q '1 refused again' "$work/out" || fail "the rejected record is not tried again" ;;
    *curl*/health) grep -q '"ok":true' "$work/out" || fail "it is not well: $(cat "$work/out")" ;;
    'vt hunt')
        grep -q "$hits hits delivered" "$work/err" || fail "no hit was delivered"
        # `vt download` runs meanwhile and fetches the samples of the hits.
        python3 - "$dispatcher" $hits >"$work/hit" <<'PY'
import hashlib, sys, time, urllib.error, urllib.request
for n in range(1, int(sys.argv[2]) + 1):
    start = "%PDF-1.7" if n % 2 == 0 else "MZ"
    sample = f"{start}\nsample {n} of the stand-in for VirusTotal\n".encode()
    sha256 = hashlib.sha256(sample).hexdigest()
    until = time.monotonic() + 60
    while True:
        try:
            with urllib.request.urlopen(f"{sys.argv[1]}/api/v3/stream/vtlivehunt/content/{sha256}", timeout=10) as answer:
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
        ;;
    *'>'*) ;;
    *) [ -s "$work/out" ] || [ -s "$work/err" ] || fail "it printed nothing" ;;
    esac
done 3<"$work/commands"
stop_server
[ "$loads $servers $posts" = "1 4 2" ] || fail "the documents have $loads loads, $servers servers, $posts posts"

# `vt serve` may have been stopped in the middle of a minute, of which some files have arrived then.
vt load
# Every minute that was due, the sample and the hits: no file is missing, none is more.
# shellcheck disable=SC2046 # a word a minute
"$bin/sim" expected --records $records $(loaded) "$sample" | cat - "$work/hit" >"$work/expected"
python3 - "$dispatcher" "$work/expected" <<'PY'
import json, sys, urllib.request
def ask(what):
    with urllib.request.urlopen(f"{sys.argv[1]}/sim/{what}", timeout=10) as answer:
        return json.load(answer)
arrived, summary = set(ask("keys")), ask("summary")
expected = set(open(sys.argv[2]).read().split())
print(f"expected {len(expected)} files, {len(expected & arrived)} arrived, {len(arrived - expected)} others;",
      f"{summary['unique_downloads']} downloads asked for, {len(summary['problems'])} problems")
sys.exit(0 if arrived == expected and summary["downloads"] and not summary["problems"] else 1)
PY
kill "$standins"
wait "$standins" || fail "the stand-ins saw the API key where it must not be"
standins=''
echo "the commands of the documents do what they say"
