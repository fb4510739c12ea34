#!/usr/bin/env bash
# Runs the commands of README's section "Using it", as they are written there but for two addresses: the
# dispatcher's, and the port of `vt tload`, which may be taken on this machine. Checks what they answer and
# what arrives at the stand-ins. Needs the built workspace and Python 3. Leaves nothing running.
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
header = args[args.index("-H") + 1].split(":", 1)
request = urllib.request.Request(args[-1], sys.stdin.buffer.read(), {header[0]: header[1].strip()}, method="POST")
print(urllib.request.urlopen(request, timeout=60).read().decode(), end="")
PY

records=50
sample=$(date -u +%Y%m%d%H%M)
"$bin/sim" feed --minute "$sample" --records $records --output "$work/clone/sample.json.bz2"
"$bin/sim" serve --records $records --key xxxx >"$work/urls" &
standins=$!
for _ in $(seq 100); do [ -s "$work/urls" ] && break; sleep 0.1; done
url() { python3 -c 'import json,sys; print(json.load(open(sys.argv[1]))[sys.argv[2]])' "$work/urls" "$1"; }
dispatcher=$(url dispatcher)
port=$(python3 -c 'import socket; s=socket.socket(); s.bind(("127.0.0.1",0)); print(s.getsockname()[1])')
echo "dispatcher:8111 is ${dispatcher#http://} here, localhost:8854 is localhost:$port"

# What the commands do not say: where VirusTotal stands, and a start a few minutes ago rather than days.
VIRUSTOTAL=$(url virustotal)
export VIRUSTOTAL INGEST_LISTEN=127.0.0.1:$port FEED_BACKLOG_HOURS=1 FEED_LAG_MINUTES=58
export HOME=$work/home PATH=$work/bin:$PATH

# The commands, a line each, in the order in which they stand.
python3 - README.md >"$work/commands" <<'PY'
import re, sys
section = re.search(r"^## Using it\n(.*?)^## ", open(sys.argv[1]).read(), re.M | re.S).group(1)
for block in re.findall(r"^```sh\n(.*?)^```", section, re.M | re.S):
    print(block.replace("\\\n", " "), end="")
PY

loads=0 servers=0 posts=0
cd "$work/clone"
while IFS= read -r command <&3; do
    [ -n "$command" ] || continue
    case $command in '#'*) continue ;; esac
    echo "\$ $command"
    here=${command//http:\/\/dispatcher:8111/$dispatcher}
    here=${here//http:\/\/localhost:8854/http://localhost:$port}
    case $command in
    *'vt tload')
        [ -z "$server" ] || fail "a second server"
        bash -c "exec env $here" 2>"$work/server.log" &
        server=$!
        for _ in $(seq 100); do
            if grep -q 'listening on' "$work/server.log"; then break; fi
            kill -0 $server 2>/dev/null || fail "it ended: $(cat "$work/server.log")"
            sleep 0.1
        done
        grep 'listening on' "$work/server.log" || fail "it does not listen: $(cat "$work/server.log")"
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
    *' vt load')
        grep -q "records, [1-9][0-9]* delivered" "$work/err" || fail "nothing was delivered"
        loads=$((loads + 1))
        ;;
    *curl*)
        [ "$(cat "$work/out")" = "read $records records" ] || fail "not the answer that was hoped for"
        posts=$((posts + 1))
        ;;
    *'>'*) ;;
    *) [ -s "$work/out" ] || [ -s "$work/err" ] || fail "it printed nothing" ;;
    esac
done 3<"$work/commands"
[ "$loads $servers $posts" = "1 1 2" ] || fail "README has $loads loads, $servers servers, $posts posts"

kill "$server"
wait "$server" || fail "vt tload did not end well"
server=''
# Every minute that was due and the sample: no file is missing, none is more.
range=$(STATEDIR="$HOME/.vtload" vt status --json | python3 -c '
import datetime, json, sys
status = json.load(sys.stdin)
last = datetime.datetime.strptime(status["cursor"], "%Y%m%d%H%M")
for n in range(status["totals"]["loaded"]):
    print((last - datetime.timedelta(minutes=n)).strftime("%Y%m%d%H%M"))')
# shellcheck disable=SC2086 # a word a minute
"$bin/sim" expected --records $records $range "$sample" >"$work/expected"
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
echo "README's commands do what it says"
