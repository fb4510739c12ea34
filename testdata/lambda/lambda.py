#!/usr/bin/env python3
"""Invokes the Lambdas as AWS would, with the events in testdata/events, and looks at what comes of it.

`cargo lambda watch` is the Lambda service, the workspace's own binaries attach to it as functions, the state
is on the emulator of AWS, and stand-ins are VirusTotal and the dispatcher. Takes the directory of the virtual
environment with cargo-lambda. Standard library only; needs the built workspace and what `make aws` installs.
Leaves nothing running; where it fails, the logs are kept and it says where.
"""

import base64
import hashlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.parse
import urllib.request
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta, timezone
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT / "testdata"))
from scripts import exports  # noqa: E402

BIN = Path(os.environ.get("CARGO_TARGET_DIR") or ROOT / "target").resolve() / "debug"
EVENTS = ROOT / "testdata/events"
# Then a function's state is in STATEDIR, and its rules cannot be in a bucket.
ON_AWS = ["STATE_TABLE", "BUNDLE_BUCKET", "INBOX_QUEUE_URL", "DOWNLOAD_QUEUE_URL", "MINUTES_QUEUE_URL"]
HERE = dict.fromkeys(["RULES_ROOT", *ON_AWS], "")
# The service knows the workspace's binaries alone, so the faulty one has the name of one that is no function.
FAULTY = "sim"
FUNCTIONS = ["load", "ingest", "query", "download", "hunt"]
# The webhook and the queue's messages of each function that works the dispatcher's events.
EVENTS_OF = {"query": ("webhook_binary", "inbox-queue"), "download": ("webhook_download", "downloads-queue")}
# Of Livehunt, each of a sample that VirusTotal has.
HITS = 3
# What comes of these events, with the state on AWS and then on this machine.
ANSWERED = {
    ("status", "completed"): 4,
    ("status", "opt-out"): 2,
    # Those of the events; and of the hits, which each state asks for anew.
    ("download", "success"): 4 + 2 * HITS,
}
RECORDS = 20
# 30 MB of them.
UPLOADED = 1200
KEY = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
# Long for an invocation here, which takes a second.
PATIENCE = 120

port = 0
work = Path(tempfile.mkdtemp(prefix="azul-vt-lambda-"))
running = []
threads = ThreadPoolExecutor(2)
environment = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}


def fail(why):
    sys.exit(f"lambda: {why}")


def check(what, found, wanted):
    if found != wanted:
        fail(f"{what}: {found!r}, not {wanted!r}")


def start(name, command, more=None):
    """Starts a process that ends with this one; gives it and the file that its output goes to."""
    log = work / f"{name}.log"
    said = work / f"{name}.out"
    with open(log, "wb") as err, open(said, "wb") as out:
        # What a script reads of `sim` is apart from its complaints.
        child = subprocess.Popen(
            [str(part) for part in command],
            env=environment | (more or {}),
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            cwd=work,
        )
    running.append(child)
    return child, said


def wait(what, child, ready):
    until = time.monotonic() + PATIENCE
    while not ready():
        if child.poll() is not None:
            fail(f"{what} ended with {child.returncode}")
        if time.monotonic() > until:
            fail(f"{what} does not come up")
        time.sleep(0.05)


def whole(path, lines):
    return path.read_text().count("\n") >= lines


def output(*command):
    done = subprocess.run([str(c) for c in command], env=environment, cwd=work, capture_output=True, text=True)
    if done.returncode != 0:
        fail(f"{command[0]} ended with {done.returncode}: {done.stderr}")
    return done.stdout


def ask(url):
    with urllib.request.urlopen(url, timeout=30) as answer:
        return json.load(answer)


def event(name):
    return json.loads((EVENTS / f"{name}.json").read_text())


def invoked(function, what):
    """How an invocation with a file in testdata/events, or with an event, ended (0: well), and what it said."""
    file = EVENTS / f"{what}.json" if isinstance(what, str) else work / f"{function}-event.json"
    if not isinstance(what, str):
        file.write_text(json.dumps(what))
    done = subprocess.run(
        ["cargo", "lambda", "invoke", function, "--data-file", str(file), "-A", "127.0.0.1", "-P", str(port)],
        env=environment,
        cwd=work,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    return done.returncode, done.stdout if done.returncode == 0 else done.stderr + done.stdout


def invoke(function, what):
    """What a function answers."""
    begun = time.monotonic()
    ended, said = invoked(function, what)
    name = what if isinstance(what, str) else "an event made for it"
    if ended != 0:
        fail(f"{function}, invoked with {name}, ended with {ended}: {said}")
    print(f"{function} ← {name}: {said.strip()[:150]} ({time.monotonic() - begun:.1f} s)")
    return json.loads(said)


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def listens(at):
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", at)) == 0


def main():
    # What is there.
    known = ["--reports", 5, "--samples", 5, "--hits", HITS]
    sim, urls = start("standins", [BIN / "sim", "serve", "--records", RECORDS, "--small", "--key", KEY, *known])
    aws, found = start("aws", [BIN / "sim", "aws", "--secret", f"azul-vt/key={KEY}"])
    wait("the stand-ins", sim, lambda: whole(urls, 1))
    wait("the emulator of AWS", aws, lambda: whole(found, 5))
    urls = json.loads(urls.read_text())
    environment.update(exports(found.read_text().splitlines()))
    environment.update(exports(output(BIN / "vt", "aws", "init").splitlines()))
    python = Path(os.environ.get("AZUL_VT_AWS") or ROOT / "target/aws") / "bin/python"
    put = [python, ROOT / "testdata/aws/objects.py", environment["AWS_ENDPOINT_URL"]]
    output(*put, "azul-vt-rules", "vt/", ROOT / "testdata/select_rules/example")
    environment.update(
        VIRUSTOTAL=urls["virustotal"],
        VIRUSTOTAL_APIKEY_SECRET="azul-vt/key",
        PLUGIN_EVENTS_URL=urls["dispatcher"],
        PLUGIN_DATA_URL=urls["dispatcher"],
        CONTENT_HOSTS=urls["content"],
        RULES_ROOT="s3://azul-vt-rules/vt/",
        FEED_BACKLOG_HOURS="1",
        FEED_LAG_MINUTES="58",
        DISPATCHER_MAX_AGE_HOURS="-1",
        LOOKUP_SOURCES="incidents",
    )
    serve_lambdas([(function, {}) for function in FUNCTIONS])

    working = take_events()
    hunt()
    posted = post()
    check("files that did not arrive", posted - set(ask(urls["dispatcher"] + "/sim/keys")), set())
    minutes = load_the_feed()
    uploaded = upload_and_load()
    work_events(working)
    finish_downloads()
    # The same with their state on this machine.
    serve_lambdas([(function, HERE) for function in [*EVENTS_OF, "hunt"]])
    working = take_events()
    hunt()
    work_events(working)

    hit = {hashlib.sha256(sample(n)).hexdigest() for n in range(1, HITS + 1)}
    expected = posted | hit | {asked_for(function) for function in EVENTS_OF} | {queued(function) for function in EVENTS_OF}
    for records, minutes in ((RECORDS, minutes), (UPLOADED, [uploaded])):
        expected |= set(output(BIN / "sim", "expected", "--records", records, *minutes).split())
    arrived = set(ask(urls["dispatcher"] + "/sim/keys"))
    summary = ask(urls["dispatcher"] + "/sim/summary")
    check("files that did not arrive", expected - arrived, set())
    check("files that nobody sent", arrived - expected, set())
    answers = Counter()
    for count in summary["counts"]:
        answers[(count["model"], count["action"])] += count["count"]
    check("answers of query and download", {key: answers[key] for key in ANSWERED}, ANSWERED)
    # VirusTotal has none of the samples that `load` asked for.
    requested = answers[("download", "requested")] - 2 * HITS
    check("samples that are not there", answers[("download", "failed-not-found")], requested + 2)
    check("problems at the dispatcher", summary["problems"], [])
    print(f"{len(arrived)} files arrived, all that were sent; {requested} downloads were asked for")
    everything()
    nothing_secret_is_logged()
    sim.terminate()
    check("the stand-ins, which look where the API key goes,", sim.wait(PATIENCE), 0)


def everything():
    """Every event through every function: an answer or, where a function cannot take an event, its own error. And a
    function that fails and panics as it is told, whose process lives on."""
    # Two of them wait for the dispatcher's polls at many events: several processes each.
    serve_lambdas([(program, HERE) for program in [*FUNCTIONS, *4 * list(EVENTS_OF), "examples/faulty"]])
    names = sorted(path.stem for path in EVENTS.glob("*.json"))
    with ThreadPoolExecutor(12) as pool:
        done = {(function, name): pool.submit(invoked, function, name) for name in names for function in FUNCTIONS}
    for (function, name), outcome in done.items():
        error = error_of(function, name)
        ended, said = outcome.result()
        # An error is printed with line breaks of its own.
        if (ended != 0) != bool(error) or error not in " ".join(said.split()):
            fail(f"{function}, invoked with {name}, ended with {ended}: {said}")
    print(f"{len(done)} invocations: each function with each of {len(names)} events")
    # A panic is an error too.
    for how, why in (("fail", "the disk is full"), ("panic", "index out of bounds")):
        ended, said = invoked(FAULTY, {how: why})
        if ended == 0 or why not in said:
            fail(f"a function told to {how} ended with {ended}: {said}")
        check(f"the answer after a {how}", invoke(FAULTY, {"fine": 1}), {"fine": 1})


def nothing_secret_is_logged():
    logs = [path for path in work.glob("*.*") if path.name.split("-")[0] in [*FUNCTIONS, "watch"]]
    told = [path for path in logs if path.suffix in (".log", ".out") and KEY in path.read_text()]
    check("logs that hold VirusTotal's key", told, [])


def serve_lambdas(functions):
    """Starts a Lambda service, and its functions, each with what its environment has beside."""
    global port
    port = free_port()
    # Without functions of its own: to build them it would build the workspace anew.
    command = ["cargo", "lambda", "watch", "--only-lambda-apis", "-A", "127.0.0.1", "-P", port]
    command += ["--manifest-path", ROOT / "Cargo.toml"]
    watch, _ = start(f"watch-{port}", command)
    wait("cargo lambda watch", watch, lambda: listens(port))
    for nth, (program, more) in enumerate(functions):
        function = FAULTY if program == "examples/faulty" else program
        lambdas = {
            "AWS_LAMBDA_RUNTIME_API": f"http://127.0.0.1:{port}/.rt/{function}",
            "AWS_LAMBDA_FUNCTION_NAME": function,
            "AWS_LAMBDA_FUNCTION_VERSION": "$LATEST",
            "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": "512",
            "AWS_LAMBDA_LOG_GROUP_NAME": f"/aws/lambda/{function}",
            "AWS_LAMBDA_LOG_STREAM_NAME": "here",
            "STATEDIR": str(work / f"tmp-{function}-{port}"),
        }
        start(f"{function}-{port}-{nth}", [BIN / program], lambdas | more)


def load_the_feed():
    """A schedule's event catches up, a range replays; gives the minutes."""
    [report] = invoke("load", "schedule")
    if not report["loaded"] or report["counts"]["delivered"] != report["loaded"] * RECORDS:
        fail(f"load: {report}")
    last = datetime.strptime(report["cursor"], "%Y%m%d%H%M")
    minutes = [(last - timedelta(minutes=n)).strftime("%Y%m%d%H%M") for n in range(report["loaded"])]
    [report] = invoke("load", "range")
    check("minutes of the range", report["loaded"], 5)
    check("the cursor behind a replay", report["cursor"] or last.strftime("%Y%m%d%H%M"), last.strftime("%Y%m%d%H%M"))
    return minutes + [f"20260102030{n}" for n in range(5)]


def upload_and_load():
    """Asks for an upload, uploads 30 MB, and tells `load` as S3 would, twice; gives the minute."""
    minute = "202601020400"
    asking = event("function-url-post-iam")
    asking["rawPath"] = asking["requestContext"]["http"]["path"] = "/uploads"
    asking["body"], asking["isBase64Encoded"] = "", False
    asking["headers"]["content-length"] = "0"
    answer = invoke("ingest", asking)
    check("the answer to who asks for an upload", answer["statusCode"], 200)
    upload = json.loads(answer["body"])
    bundle = work / "upload.jsonl"
    output(BIN / "sim", "feed", "--minute", minute, "--records", UPLOADED, "--output", bundle)
    if bundle.stat().st_size < 30_000_000:
        fail("the upload has less than 30 MB")
    put = urllib.request.Request(upload["url"], bundle.read_bytes(), upload["headers"], method="PUT")
    with urllib.request.urlopen(put, timeout=30) as answer:
        check("the answer to the upload", answer.status, 200)
    told = event("object-created")
    s3 = told["Records"][0]["s3"]
    s3["bucket"]["name"] = environment["BUNDLE_BUCKET"]
    path = urllib.parse.urlsplit(upload["url"]).path
    s3["object"]["key"] = path[path.index("incoming/") :]
    for swept in (1, 0):
        [report] = invoke("load", told)
        check("objects delivered", report["swept"], swept)
        check("records of them", report["counts"]["delivered"], swept * UPLOADED)
    return minute


def post():
    """Posts records to the function URL; gives their files."""
    posting = event("function-url-post-iam")
    answer = invoke("ingest", "function-url-post-iam")
    check("the answer to who posts", answer["statusCode"], 200)
    lines = base64.b64decode(posting["body"]).splitlines()
    check("records read", json.loads(answer["body"])["accepted"], len(lines))
    check("a stranger's answer", invoke("ingest", "function-url-post")["statusCode"], 401)
    return {json.loads(line)["id"] for line in lines}


def take_events():
    """Sends each function a webhook: an event to be completed, one that comes to nothing, and two that are not
    its work; and lets it work until its time is over. Gives what it will say then."""
    working = {}
    for function, (webhook, _) in EVENTS_OF.items():
        answer = invoke(function, webhook)
        check("the answer to a webhook", answer["statusCode"], 202)
        outcomes = [event["outcome"] for event in json.loads(answer["body"])["events"]]
        check("outcomes of a webhook", outcomes, ["accepted", "accepted", "ignored", "rejected"])
        working[function] = threads.submit(invoke, function, "schedule")
    return working


def hunt():
    """A schedule's event brings the hits, and asks for their samples; a second one finds nothing new."""
    for delivered in (HITS, 0):
        report = invoke("hunt", "schedule")
        check("hits delivered", (report["delivered"], report["requests"]), (delivered, delivered))


def error_of(function, name):
    """What a function says of a file of testdata/events that is none of its own; nothing of its own ones."""
    is_url = name.startswith(("function-url", "webhook"))
    is_tick = name in ("empty", "null", "schedule", "scheduler")
    if function == "ingest":
        return "" if is_url else "no request of a function URL"
    takes = {
        "hunt": is_tick,
        "load": not is_url,
        "query": is_tick or is_url or name.endswith("-queue"),
        "download": is_tick or is_url or name.endswith("-queue"),
    }
    return "" if takes[function] else "none that this function takes"


def work_events(working):
    """Waits for that, and hands over two messages of the function's queue, the second of which cannot be read."""
    for function, (_, messages) in EVENTS_OF.items():
        done = working[function].result()["done"]
        # What `load` asks for is download's work too.
        if done < 2 or (function == "query" and done > 2):
            fail(f"{function} worked {done} items, not 2")
        failed = event(messages)["Records"][1]["messageId"]
        answer = invoke(function, messages)
        check("the messages that failed", answer, {"batchItemFailures": [{"itemIdentifier": failed}]})


def finish_downloads():
    """Lets `download` work until it has nothing left: the next functions do not see this state."""
    for _ in range(5):
        report = invoke("download", "schedule")
        if report["done"] + report["again"] == 0:
            return
    fail("download does not come to an end")


def sample(n):
    """The content of a sample that the stand-in has (`sim::lookup::sample`)."""
    start = "%PDF-1.7" if n % 2 == 0 else "MZ"
    return f"{start}\nsample {n} of the stand-in for VirusTotal\n".encode()


def hash_of(event):
    return event["entity"].get("sha256") or event["entity"]["hash"]


def asked_for(function):
    """The file of a webhook's first event."""
    return hash_of(json.loads(event(EVENTS_OF[function][0])["body"])[0])


def queued(function):
    """The file of the queue's first message."""
    return hash_of(json.loads(json.loads(event(EVENTS_OF[function][1])["Records"][0]["body"])["body"]))


def finish(failed):
    for child in reversed(running):
        if failed and child.args[1:2] == ["aws"] and "emulator_home" in environment:
            Path(environment["emulator_home"], "keep").touch()
        child.terminate()
    for child in running:
        child.wait()
    if failed:
        print(f"lambda: the logs are in {work}", file=sys.stderr)
        if "emulator_home" in environment:
            print(f"lambda: the emulator's is {environment['emulator_home']}/log", file=sys.stderr)
    else:
        shutil.rmtree(work)


if __name__ == "__main__":
    environment["PATH"] = f"{Path(sys.argv[1]).resolve()}/bin:{environment['PATH']}"
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("lambda: told to end"))
    failed = True
    try:
        main()
        failed = False
    finally:
        finish(failed)
