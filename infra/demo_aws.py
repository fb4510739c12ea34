#!/usr/bin/env python3
"""Deploys infra/template.yaml on an emulator of AWS, with the functions as they were built, and uses all of it.

The stack is made, updated and deleted by CloudFormation; its schedules, queues, function URLs and S3's events start
the functions; roles are held to what they allow; stand-ins are VirusTotal and the dispatcher. Run by `make demo-aws`
with the Python of target/infra. The functions are LAMBDA_BINARIES/<name>.zip, <name>/bootstrap or <name>, by default
of target/lambda. Leaves nothing running; where it fails, the logs are kept and it says where.
"""

import base64
import hashlib
import hmac
import http.client
import io
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
import zipfile
from collections import Counter
from pathlib import Path

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError
from samtranslator.yaml_helper import yaml_parse

import check as check_template

ROOT = Path(__file__).resolve().parent.parent
BINARIES = Path(os.environ.get("LAMBDA_BINARIES") or ROOT / "target/lambda").resolve()
TARGET = Path(os.environ.get("CARGO_TARGET_DIR") or ROOT / "target")
# The stand-ins, of whichever build there is.
BUILDS = [Path(os.environ.get("RELEASE_DIR", TARGET / "release")), TARGET / "release", TARGET / "debug"]
SIM = next((build / "sim" for build in BUILDS if (build / "sim").exists()), BUILDS[0] / "sim")
SIM = Path(os.environ.get("DEMO_SIM") or SIM).resolve()
FUNCTIONS = ["load", "ingest", "query", "download", "hunt"]
STACK = "azul-vt"
ARTIFACTS = "artifacts"
KEY = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
WEBHOOK_SECRET = "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="
TOKEN = "a-token-of-the-demo"
RECORDS, HITS, KNOWN = 20, 3, 5
# A minute of the feed that VirusTotal never has; minutes of records that come in by other ways, young enough.
MISSING, UPLOADED, POSTED = (
    time.strftime("%Y%m%d%H%M", time.gmtime(time.time() - 3600 * hours)) for hours in (1.5, 9, 10)
)
# A line that is no record.
BAD = b"{}\n"
# More than a message holds, so that its body is an object.
LONG = {"case": "x" * 250_000}
# Long for anything here; the longest is that a schedule is due.
PATIENCE = 240

begun = time.monotonic()
work = Path(tempfile.mkdtemp(prefix="azul-vt-demo-aws-"))
running = []
aws = None
# Neither the caller's account nor its proxies.
environment = {
    name: value
    for name, value in os.environ.items()
    if not name.startswith("AWS_") and not name.lower().endswith("_proxy")
}


def fail(why):
    sys.exit(f"demo-aws: {why}")


def check(what, found, wanted):
    if found != wanted:
        fail(f"{what}: {found!r}, not {wanted!r}")


def say(text):
    print(f"{time.monotonic() - begun:5.0f} s  {text}", flush=True)


def wait(what, ready, patience=PATIENCE):
    """What `ready` gives, as soon as it is something."""
    until = time.monotonic() + patience
    while not (found := ready()):
        for child in running:
            if child.poll() is not None:
                fail(f"{child.args[:2]} ended with {child.returncode}")
        if time.monotonic() > until:
            fail(f"waited in vain for {what}")
        time.sleep(0.5)
    return found


def start(name, command, more=None):
    with open(work / f"{name}.log", "wb") as err, open(work / f"{name}.out", "wb") as out:
        child = subprocess.Popen(
            [str(part) for part in command],
            env=environment | (more or {}),
            # Held open: the emulator ends when it is closed.
            stdin=subprocess.PIPE,
            stdout=out,
            stderr=err,
            cwd=work,
        )
    running.append(child)
    return child


def output(*command):
    done = subprocess.run([str(c) for c in command], env=environment, cwd=work, capture_output=True, text=True)
    if done.returncode != 0:
        fail(f"{command[0]} ended with {done.returncode}: {done.stderr}")
    return done.stdout


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def ask(url, body=None):
    with urllib.request.urlopen(urllib.request.Request(url, body), timeout=30) as answer:
        return json.load(answer)


class Aws:
    """The emulator, and clients of it as the account's owner."""

    def __init__(self):
        self.port = free_port()
        self.endpoint = f"http://127.0.0.1:{self.port}"
        home = work / "aws"
        home.mkdir()
        # Its log and the functions' last words are looked at after a failure.
        (home / "keep").touch()
        self.process = start(
            "aws",
            [sys.executable, ROOT / "infra/emulator.py", home],
            {
                "BIND_HOST": "127.0.0.1",
                "GATEWAY_PORT": str(self.port),
                # Roles, users and function URLs are held to their policies.
                "AUTH": "true",
                # What it gives the functions to find it.
                "AWS_ENDPOINT_URL": self.endpoint,
                "TMPDIR": str(home),
                "STATE_DIR": str(home / "state"),
                "S3_DATA_DIR": str(home / "s3"),
            },
        )
        self.clients = {}
        wait("the emulator of AWS", self.listens, 60)

    def listens(self):
        with socket.socket() as client:
            return client.connect_ex(("127.0.0.1", self.port)) == 0

    def client(self, service, key="test", secret="test"):
        return boto3.client(
            service,
            endpoint_url=self.endpoint,
            region_name="us-east-1",
            aws_access_key_id=key,
            aws_secret_access_key=secret,
            config=Config(retries={"total_max_attempts": 1}),
        )

    def __getattr__(self, service):
        if service not in self.clients:
            self.clients[service] = self.client(service)
        return self.clients[service]

    def call(self, url, body, headers, path="/"):
        """Posts to a function URL: its host's name leads to the emulator."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        host = urllib.parse.urlsplit(url).netloc
        connection.request("POST", path, body, {"Host": host, "Content-Type": "application/json", **headers})
        answer = connection.getresponse()
        return answer.status, answer.read().decode()


def function_zip(name):
    """A function's deployment package."""
    for place in (BINARIES / f"{name}.zip", BINARIES / name / "bootstrap", BINARIES / name):
        if place.is_file():
            break
    else:
        fail(f"there is no {name}.zip, {name}/bootstrap or {name} in {BINARIES}: run make package")
    if place.suffix == ".zip":
        return place.read_bytes()
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        entry = zipfile.ZipInfo("bootstrap")
        entry.external_attr = 0o755 << 16
        entry.compress_type = zipfile.ZIP_DEFLATED
        archive.writestr(entry, place.read_bytes())
    return packed.getvalue()


def publish(aws):
    """Puts the functions and the template, as `sam package` would write it, into a bucket; gives its URL."""
    aws.s3.create_bucket(Bucket=ARTIFACTS)
    template = yaml_parse((ROOT / "infra/template.yaml").read_text())
    for name in FUNCTIONS:
        aws.s3.put_object(Bucket=ARTIFACTS, Key=f"{name}.zip", Body=function_zip(name))
        function = template["Resources"][name.capitalize()]["Properties"]
        check(f"the package of {name}", function["CodeUri"], f"../target/lambda/{name}.zip")
        function["CodeUri"] = f"s3://{ARTIFACTS}/{name}.zip"
    # The emulator has no alarms on expressions.
    sums = [name for name, what in template["Resources"].items() if "Metrics" in what.get("Properties", {})]
    for name in sums:
        del template["Resources"][name]
    aws.s3.put_object(Bucket=ARTIFACTS, Key="template.json", Body=json.dumps(template).encode())
    return f"{aws.endpoint}/{ARTIFACTS}/template.json"


def stack_is(aws, wanted):
    stack = aws.cloudformation.describe_stacks(StackName=STACK)["Stacks"][0]
    status = stack["StackStatus"]
    if status.endswith(("FAILED", "ROLLBACK_COMPLETE")):
        for event in aws.cloudformation.describe_stack_events(StackName=STACK)["StackEvents"]:
            if "FAILED" in event["ResourceStatus"]:
                print(event["LogicalResourceId"], event.get("ResourceStatusReason"), file=sys.stderr)
        fail(f"the stack is {status}")
    return stack if status == wanted else None


def change(aws, how, template, parameters):
    given = [{"ParameterKey": name, "ParameterValue": value} for name, value in parameters.items()]
    do = aws.cloudformation.create_stack if how == "CREATE" else aws.cloudformation.update_stack
    do(
        StackName=STACK,
        TemplateURL=template,
        Parameters=given,
        Capabilities=["CAPABILITY_IAM", "CAPABILITY_AUTO_EXPAND"],
    )
    stack = wait(f"the stack to be {how}_COMPLETE", lambda: stack_is(aws, f"{how}_COMPLETE"))
    return {out["OutputKey"]: out["OutputValue"] for out in stack["Outputs"]}


def signed(body, name):
    """Headers of a Standard Webhooks signature."""
    now = str(int(time.time()))
    key = base64.b64decode(WEBHOOK_SECRET.removeprefix("whsec_"))
    mac = hmac.new(key, f"{name}.{now}.".encode() + body, hashlib.sha256).digest()
    return {
        "webhook-id": name,
        "webhook-timestamp": now,
        "webhook-signature": "v1," + base64.b64encode(mac).decode(),
    }


def sample(n):
    """The content of a sample that the stand-in has (`sim::lookup::sample`)."""
    return f"{'%PDF-1.7' if n % 2 == 0 else 'MZ'}\nsample {n} of the stand-in for VirusTotal\n".encode()


def file(n):
    """The hash of a file that somebody put into Azul (`sim::lookup::sha256`)."""
    return f"{n + 0xabcd:064x}"


def event_of(n):
    """Its event."""
    author = {"name": "someone", "category": "plugin"}
    node = {"author": author, "action": "sourced", "sha256": file(n), "timestamp": "2026-11-24T08:00:00Z"}
    return {
        "model_version": 6,
        "kafka_key": f"key-{n}",
        "timestamp": "2026-11-24T08:00:00Z",
        "author": author,
        "action": "sourced",
        "source": {"name": "incidents", "timestamp": "2026-11-24T08:00:00Z", "path": [node]},
        "entity": {
            "sha256": file(n),
            "size": 5,
            "datastreams": [{"label": "content", "sha256": file(n), "size": 5}],
            "features": [],
        },
    }


def request_of(n):
    """A request for a sample, as the dispatcher hands it out."""
    sha256 = hashlib.sha256(sample(n)).hexdigest()
    author = {"name": "VirustotalFileFeed", "category": "plugin", "version": "1"}
    node = {"author": author, "action": "mapped", "sha256": sha256, "timestamp": "2026-11-24T08:00:00Z"}
    return {
        "model_version": 6,
        "kafka_key": f"request-{n}",
        "timestamp": "2026-11-24T08:00:00Z",
        "author": author,
        "action": "requested",
        "source": {"name": "virustotal", "timestamp": "2026-11-24T08:00:00Z", "references": {}, "path": [node]},
        "entity": {"hash": sha256, "category": "demo/all", "category_quota": 25},
    }


class Dispatcher:
    """What arrived at the stand-in."""

    def __init__(self, url):
        self.url = url

    def summary(self):
        return ask(self.url + "/sim/summary")

    def keys(self):
        return set(ask(self.url + "/sim/keys"))

    def counts(self):
        counts = Counter()
        for count in self.summary()["counts"]:
            counts[(count["model"], count["action"])] += count["count"]
        return counts

    def has_sample(self, n, source):
        sha256 = hashlib.sha256(sample(n)).hexdigest()
        try:
            with urllib.request.urlopen(f"{self.url}/api/v3/stream/{source}/content/{sha256}", timeout=10) as answer:
                return answer.read() == sample(n)
        except urllib.error.HTTPError:
            return False


def loaded(aws):
    """The feed minutes that the table says are loaded, and those that are not."""
    rows = {}
    months = {time.strftime("%Y-%m", time.gmtime(time.time() - back)) for back in (0, 4 * 3600)}
    for month in months:
        found = aws.dynamodb.query(
            TableName=STACK,
            KeyConditionExpression="pk = :pk",
            ExpressionAttributeValues={":pk": {"S": f"ledger#{month}"}},
        )
        rows |= {item["sk"]["S"]: json.dumps(json.loads(item["row"]["S"])["state"]) for item in found["Items"]}
    done = {minute for minute, state in rows.items() if "loaded" in state.lower()}
    return sorted(done), {minute: state for minute, state in rows.items() if minute not in done}


def depth(aws, url):
    names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
    found = aws.sqs.get_queue_attributes(QueueUrl=url, AttributeNames=names)["Attributes"]
    return sum(int(found[name]) for name in names)


def main():
    global aws
    sim = start(
        "standins",
        [SIM, "serve", "--records", RECORDS, "--small", "--key", KEY]
        + ["--reports", KNOWN, "--samples", KNOWN, "--hits", HITS, "--missing", MISSING],
    )
    urls = wait("the stand-ins", lambda: (work / "standins.out").read_text().strip(), 60)
    urls = json.loads(urls)
    dispatcher = Dispatcher(urls["dispatcher"])
    aws = Aws()
    say(f"stand-ins and an emulator of AWS run; the functions are from {BINARIES}")

    # As docs/aws.md says: schedules are off until VirusTotal's key is there.
    secrets = {
        name: aws.secretsmanager.create_secret(Name=name, SecretString=value)["ARN"]
        for name, value in {"demo/webhooks": WEBHOOK_SECRET, "demo/tokens": TOKEN}.items()
    }
    template = publish(aws)
    parameters = {
        "Schedules": "DISABLED",
        "VirusTotalUrl": urls["virustotal"],
        "DispatcherEventsUrl": urls["dispatcher"],
        "DispatcherDataUrl": urls["dispatcher"],
        "ContentHosts": urls["content"],
        "LookupSources": "incidents",
        "FeedBacklogHours": "2",
        "RequestsPerMinute": "1000",
        "RequestsPerDay": "10000",
        "RequestsPerMonth": "100000",
        "UrlAuthType": "NONE",
        "WebhookSecretsSecretArn": secrets["demo/webhooks"],
        "IngestTokensSecretArn": secrets["demo/tokens"],
        "PollSchedule": "rate(1 minute)",
        # After the first poll for downloads, so that its requests are handed out.
        "HuntSchedule": "rate(2 minutes)",
    }
    made = change(aws, "CREATE", template, parameters)
    resources = aws.cloudformation.describe_stack_resources(StackName=STACK)["StackResources"]
    say(f"the stack is made: {len(resources)} resources")
    look_at_roles(aws, made)

    for rules in (ROOT / "testdata/select_rules/example").iterdir():
        aws.s3.put_object(Bucket=made["BundleBucket"], Key=f"rules/{rules.name}", Body=rules.read_bytes())
    aws.secretsmanager.put_secret_value(SecretId=made["VirusTotalKeySecret"], SecretString=KEY)
    parameters["Schedules"] = "ENABLED"
    made = change(aws, "UPDATE", template, parameters)
    say("VirusTotal's key is in its place, the schedules are on")

    expected = webhooks(aws, made) | post(aws, made)
    uploaded = upload(aws, made)
    poison(aws, made)
    expected |= polled(aws, dispatcher)

    wait("an hour of feed", lambda: len(loaded(aws)[0]) > 60)
    wait("hits", lambda: dispatcher.counts()[("binary", "sourced")] >= HITS)
    for n in range(1, HITS + 1):
        wait(f"the sample of hit {n}", lambda n=n: dispatcher.has_sample(n, "vtlivehunt"))
    say(f"{HITS} hits of Livehunt came by schedule, and their samples are in Azul, byte for byte")

    parameters["Schedules"] = "DISABLED"
    change(aws, "UPDATE", template, parameters)
    wait("the queue of minutes to be empty", lambda: depth(aws, made["MinutesQueueUrl"]) == 0)
    wait("every minute to be done", lambda: all("gap" in state.lower() for state in loaded(aws)[1].values()))
    minutes, gaps = loaded(aws)
    check("gaps", list(gaps), [MISSING])
    say(f"{len(minutes)} feed minutes are loaded, {minutes[0]} to {minutes[-1]}; one that VirusTotal lacks is a gap")
    rejects = aws.s3.list_objects_v2(Bucket=made["BundleBucket"], Prefix="rejects/")["Contents"]
    check("rejects", len(rejects), 2)

    expected |= {hashlib.sha256(sample(n)).hexdigest() for n in range(1, KNOWN + 1)}
    for of in [*minutes, uploaded]:
        expected |= set(output(SIM, "expected", "--records", RECORDS, of).split())
    check("files that did not arrive", expected - dispatcher.keys(), set())
    arrived = dispatcher.keys()
    check("files that nobody sent", arrived - expected, set())
    summary = dispatcher.summary()
    check("problems at the dispatcher", summary["problems"], [])
    say(f"{len(arrived)} files arrived, all that were sent and no others; {dict(dispatcher.counts())}")
    look_at_logs()

    delete(aws, made)
    sim.terminate()
    check("the stand-ins, which look where the API key goes,", sim.wait(60), 0)
    running.remove(sim)
    say("done")


def webhooks(aws, made):
    """Events for query and one for download, by signed webhooks; a bad signature is refused."""
    # As the dispatcher hands them out, so that the answer is a status.
    handed_out = [event_of(n) | {"dequeued": f"key-{n}.VirustotalFileLookup.1.0"} for n in (1, 3)]
    long = request_of(4)
    handed_out[1]["source"]["references"] = long["source"]["references"] = LONG
    for name, url, events in [("query", "QueryUrl", handed_out), ("download", "DownloadUrl", [long])]:
        body = json.dumps(events).encode()
        status, said = aws.call(made[url], body, signed(body + b" ", f"bad-{name}"))
        check(f"the answer of {name} to a bad signature", status, 401)
        status, said = aws.call(made[url], body, signed(body, f"demo-{name}"))
        check(f"the answer of {name} to a webhook ({said})", status, 202)
    say("webhooks are taken: 202 with a signature, 401 with a bad one")
    return {file(1), file(3), hashlib.sha256(sample(4)).hexdigest()}


def post(aws, made):
    """Records posted to ingest; gives their files."""
    posted = work / "posted.jsonl"
    output(SIM, "feed", "--minute", POSTED, "--records", RECORDS, "--output", posted)
    body = posted.read_bytes() + BAD
    check("the answer to a post without a token", aws.call(made["IngestUrl"], body, {})[0], 401)
    status, said = aws.call(made["IngestUrl"], body, {"Authorization": f"Bearer {TOKEN}"})
    check(f"the answer to a post ({said})", status, 200)
    say(f"ingest: {said.strip()}")
    return set(output(SIM, "expected", "--records", RECORDS, POSTED).split())


def upload(aws, made):
    """A bundle put where ingest says, which S3's event has load deliver; gives its minute."""
    status, said = aws.call(made["IngestUrl"], b"", {"Authorization": f"Bearer {TOKEN}"}, "/uploads")
    check(f"the answer to who asks for an upload ({said})", status, 200)
    there = json.loads(said)
    bundle = work / "upload.jsonl"
    output(SIM, "feed", "--minute", UPLOADED, "--records", RECORDS, "--output", bundle)
    put = urllib.request.Request(there["url"], bundle.read_bytes() + BAD, there["headers"], method="PUT")
    with urllib.request.urlopen(put, timeout=60) as answer:
        check("the answer to the upload", answer.status, 200)
    listed = lambda: aws.s3.list_objects_v2(Bucket=made["BundleBucket"], Prefix="incoming/")["KeyCount"]  # noqa: E731
    wait("the upload to be delivered", lambda: listed() == 0)
    say("an upload to a presigned URL was delivered by load, which S3 told of it")
    return UPLOADED


def poison(aws, made):
    """A message that nobody can read ends in the dead-letter queue of its queue."""
    dead = made["InboxQueueUrl"] + "-dead"
    aws.sqs.send_message(QueueUrl=made["InboxQueueUrl"], MessageBody="this is no work")
    wait("a message that cannot be read to be put aside", lambda: depth(aws, dead))
    [message] = aws.sqs.receive_message(QueueUrl=dead, MessageAttributeNames=["All"])["Messages"]
    check("the message that was put aside", message["Body"], "this is no work")
    reason = message["MessageAttributes"]["reason"]["StringValue"]
    say(f"a message that cannot be read is in {dead.rsplit('/', 1)[1]}: {reason}")


def polled(aws, dispatcher):
    """A binary and a request that others post to the dispatcher, once query and download poll; gives their files."""
    # What was posted before its first poll is not handed out to a plugin. All schedules of a minute are due together.
    wait("the first tick", lambda: any(loaded(aws)))
    time.sleep(10)
    ask(dispatcher.url + "/api/v2/event?model=binary&sync=true", json.dumps([event_of(2)]).encode())
    ask(dispatcher.url + "/api/v2/event?model=download&sync=true", json.dumps([request_of(5)]).encode())
    answered = lambda: dispatcher.counts()[("status", "completed")]  # noqa: E731
    wait("query to answer three events", lambda: answered() >= 3)
    for n in (4, 5):
        wait(f"sample {n}", lambda n=n: dispatcher.has_sample(n, "virustotal"))
    say("events that came by webhook and by polls went through the queues: three look-ups, two samples")
    return {file(2), hashlib.sha256(sample(5)).hexdigest()}


def look_at_roles(aws, made):
    """A user with a function's own policy may touch its items and objects, and not another function's."""
    roles = {
        found["LogicalResourceId"]: found["PhysicalResourceId"]
        for found in aws.cloudformation.describe_stack_resources(StackName=STACK)["StackResources"]
        if found["ResourceType"] == "AWS::IAM::Role"
    }
    role = roles["HuntRole"]
    policy = aws.iam.get_role_policy(RoleName=role, PolicyName="hunt")["PolicyDocument"]
    aws.iam.create_user(UserName="as-hunt")
    aws.iam.put_user_policy(UserName="as-hunt", PolicyName="only", PolicyDocument=json.dumps(policy))
    key = aws.iam.create_access_key(UserName="as-hunt")["AccessKey"]
    of = lambda service: aws.client(service, key["AccessKeyId"], key["SecretAccessKey"])  # noqa: E731
    table, bucket = of("dynamodb"), of("s3")

    def item(pk):
        table.get_item(TableName=STACK, Key={"pk": {"S": pk}, "sk": {"S": "-"}})

    item("cursor#hunt")
    bucket.put_object(Bucket=made["BundleBucket"], Key="hunt/look", Body=b"")
    aws.s3.delete_object(Bucket=made["BundleBucket"], Key="hunt/look")
    others = [
        lambda: item("cursor#load"),
        lambda: item("quota#2026-11-24#x"),
        lambda: bucket.put_object(Bucket=made["BundleBucket"], Key="staged/feed/x", Body=b""),
        lambda: bucket.delete_object(Bucket=made["BundleBucket"], Key="hunt/x"),
        lambda: of("sqs").send_message(QueueUrl=made["InboxQueueUrl"], MessageBody="x"),
        lambda: of("secretsmanager").get_secret_value(SecretId="demo/tokens"),
    ]
    for number, other in enumerate(others):
        try:
            other()
        except ClientError as error:
            if "AccessDenied" in error.response["Error"]["Code"]:
                continue
            raise
        fail(f"hunt's role may do what is not its own (number {number})")
    say(f"{len(roles)} roles; hunt's lets in none of {len(others)} things that are others'")


def log_lines():
    """What the functions wrote, with the log group before each line."""
    for group in aws.logs.describe_log_groups(logGroupNamePrefix=f"/aws/lambda/{STACK}-")["logGroups"]:
        name = group["logGroupName"]
        for page in aws.logs.get_paginator("filter_log_events").paginate(logGroupName=name):
            for line in page["events"]:
                yield f"{name.removeprefix('/aws/lambda/')}: {line['message'].rstrip()}"


def keep_logs():
    try:
        (work / "functions.log").write_text("\n".join(log_lines()))
    except Exception as error:  # The reason to fail is another one.
        print(f"demo-aws: the functions' logs cannot be had: {error}", file=sys.stderr)


def look_at_logs():
    """No function asked for what its role does not allow, it would say so; they told the metrics that are watched."""
    lines = list(log_lines())
    denied = [line[:500] for line in lines if "AccessDenied" in line or "not authorized" in line]
    check("what a role did not allow", denied, [])
    say(f"{len(lines)} lines of log in CloudWatch: no function asked for what its role does not allow")
    told = set(metrics_of(lines))
    watched = {(name, tuple(sorted(dimensions))) for _, name, dimensions in check_template.used_metrics()}
    # Of values that come of failures (`refused`, `buried` …) there are none here, but their metrics are.
    missing = watched - {(name, tuple(label for label, _ in dimensions)) for name, dimensions in told}
    check("metrics that alarms or the dashboard look at and nobody tells", missing, set())
    say(f"{len(told)} metrics were told, those of alarms and the dashboard among them")


def metrics_of(lines):
    """Each metric in lines of CloudWatch's embedded metric format: name and dimensions."""
    for line in lines:
        text = line[line.find("{") :]
        if '"_aws"' not in text:
            continue
        values = json.loads(text)
        for block in values["_aws"]["CloudWatchMetrics"]:
            check("the namespace of metrics", block["Namespace"], check_template.NAMESPACE)
            for names in block["Dimensions"]:
                dimensions = tuple(sorted((name, values[name]) for name in names))
                for metric in block["Metrics"]:
                    yield metric["Name"], dimensions


def delete(aws, made):
    """Deletes the stack, and looks that table and bucket are left, and nothing else."""
    aws.cloudformation.delete_stack(StackName=STACK)

    def gone():
        try:
            return stack_is(aws, "DELETE_COMPLETE")
        except ClientError:
            return True

    wait("the stack to be deleted", gone)
    check("functions that are left", aws.client("lambda").list_functions()["Functions"], [])
    check("queues that are left", aws.sqs.list_queues().get("QueueUrls", []), [])
    check("schedules that are left", aws.scheduler.list_schedules()["Schedules"], [])
    check("roles that are left", [r["RoleName"] for r in aws.iam.list_roles()["Roles"] if STACK in r["RoleName"]], [])
    check("alarms that are left", aws.cloudwatch.describe_alarms()["MetricAlarms"], [])
    check("tables that are left", aws.dynamodb.list_tables()["TableNames"], [STACK])
    buckets = {bucket["Name"] for bucket in aws.s3.list_buckets()["Buckets"]}
    check("buckets that are left", buckets, {ARTIFACTS, made["BundleBucket"]})
    say("the stack is deleted; its table and its bucket are left, as they should be")


def finish(failed):
    if failed and aws:
        keep_logs()
    for child in reversed(running):
        # The emulator ends when its input does, the stand-ins when they are told to.
        child.stdin.close()
        if child is not getattr(aws, "process", None) and child.poll() is None:
            child.terminate()
    for child in running:
        child.wait()
    if failed:
        print(f"demo-aws: the logs are in {work}", file=sys.stderr)
    else:
        shutil.rmtree(work)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("demo-aws: told to end"))
    failed = True
    try:
        main()
        failed = False
    finally:
        finish(failed)
