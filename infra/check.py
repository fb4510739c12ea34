#!/usr/bin/env python3
"""Holds infra/template.yaml to what the other files say: docs/settings.md, docs/operations.md, docs/architecture.md, docs/aws.md,
infra/permissions.json, `vt aws
init`; and to itself. cfn-lint, SAM and checkov look at everything else (`make infra-check`).

Prints what is wrong, a line each; ends with 1 where anything is.
"""

import json
import re
import sys
from pathlib import Path

from samtranslator.yaml_helper import yaml_parse

ROOT = Path(__file__).resolve().parent.parent
TEMPLATE = yaml_parse((ROOT / "infra/template.yaml").read_text())
RESOURCES = TEMPLATE["Resources"]
PARAMETERS = TEMPLATE["Parameters"]
SETTINGS = (ROOT / "docs/settings.md").read_text()
OPERATIONS = (ROOT / "docs/operations.md").read_text()
ARCHITECTURE = (ROOT / "docs/architecture.md").read_text()
DEPLOYING = (ROOT / "docs/aws.md").read_text()
PERMISSIONS = json.loads((ROOT / "infra/permissions.json").read_text())
INIT = (ROOT / "shared/state/src/aws/init.rs").read_text()
NAMESPACE = "AzulVirusTotal"

# What Lambda does in a function's name, so that it is not in permissions.json: by the statement's Sid.
OF_LAMBDA = {
    "Log": ["logs:CreateLogStream", "logs:PutLogEvents"],
    # Only of `load`: its destination of events that failed.
    "Failed": ["sqs:SendMessage"],
}
# Policies that may say `Resource: "*"`, because their actions take nothing else.
ANY_RESOURCE = {"TracingPolicy": {"xray"}, "NetworkPolicy": {"ec2"}}


def of_type(kind):
    return {name: what["Properties"] for name, what in RESOURCES.items() if what["Type"] == kind}


def as_list(value):
    return value if isinstance(value, list) else [value]


def plain(value):
    """A value without its intrinsic functions: of a condition the first branch, of a parameter its default."""
    if isinstance(value, list):
        return [plain(one) for one in value]
    if not isinstance(value, dict):
        return value
    if "Fn::If" in value:
        return plain(value["Fn::If"][1])
    if "Ref" in value and value["Ref"] in PARAMETERS:
        return PARAMETERS[value["Ref"]].get("Default", "")
    if "Fn::Sub" in value and isinstance(value["Fn::Sub"], str):
        return value["Fn::Sub"]
    return {name: plain(one) for name, one in value.items()}


FUNCTIONS = {name.lower(): plain(what) for name, what in of_type("AWS::Serverless::Function").items()}


# ---- Schedules ----

UNITS = {"minute", "hour", "day"}
MONTHS = "JAN FEB MAR APR MAY JUN JUL AUG SEP OCT NOV DEC".split()
DAYS = "SUN MON TUE WED THU FRI SAT".split()
# Of the six fields: least, most, names (counted from the least), and what else a field may be.
FIELDS = [
    ("minutes", 0, 59, [], r"$^"),
    ("hours", 0, 23, [], r"$^"),
    ("day of the month", 1, 31, [], r"\?|L|LW|\d{1,2}W"),
    ("month", 1, 12, MONTHS, r"$^"),
    ("day of the week", 1, 7, DAYS, r"\?|L|[1-7]L|[1-7]#[1-5]"),
    ("year", 1970, 2199, [], r"$^"),
]


def field_is_good(text, least, most, names):
    def number(word):
        if word.upper() in names:
            return names.index(word.upper()) + least
        return int(word) if word.isdigit() else None

    for part in text.split(","):
        span, slash, step = part.partition("/")
        if slash and not (step.isdigit() and int(step) > 0):
            return False
        if span == "*":
            continue
        ends = [number(end) for end in span.split("-")]
        if len(ends) > 2 or None in ends or not all(least <= end <= most for end in ends) or ends != sorted(ends):
            return False
    return True


def schedule_problem(text):
    """What is wrong with an expression of EventBridge Scheduler, which no linter reads; None: nothing."""
    if found := re.fullmatch(r"rate\((\d+) ([a-z]+)\)", text):
        value, unit = int(found[1]), found[2]
        if value < 1:
            return "a rate is at least 1"
        singular = unit.removesuffix("s")
        if singular not in UNITS:
            return f"{unit} is no unit"
        return None if (unit == singular) == (value == 1) else f"{value} {unit}: 1 takes the singular, more the plural"
    if found := re.fullmatch(r"cron\((.*)\)", text):
        fields = found[1].split(" ")
        if len(fields) != len(FIELDS):
            return f"cron has {len(FIELDS)} fields"
        for field, (name, least, most, names, else_) in zip(fields, FIELDS, strict=True):
            if not re.fullmatch(else_, field) and not field_is_good(field, least, most, names):
                return f"{field} is no {name}"
        return None if (fields[2] == "?") != (fields[4] == "?") else "one of the two days is ?, the other not"
    return "neither rate() nor cron()"


def schedules():
    for good in ["rate(1 minute)", "rate(5 minutes)", "cron(0/5 * * * ? *)", "cron(15 10 ? * MON-FRI 2027)"]:
        if problem := schedule_problem(good):
            yield f"check.py finds fault with {good}: {problem}"
    for bad in ["rate(5 minute)", "rate(1 minutes)", "rate(0 minutes)", "rate(1 week)", "cron(99 * * * ? *)"]:
        if not schedule_problem(bad):
            yield f"check.py finds no fault with {bad}"
    for bad in ["cron(* * * * * *)", "cron(* * * * ?)", "cron(0 0 ? 13 * *)", "every minute", "cron(5-1 * * * ? *)"]:
        if not schedule_problem(bad):
            yield f"check.py finds no fault with {bad}"
    found = 0
    for name, function in FUNCTIONS.items():
        for event in function.get("Events", {}).values():
            if event["Type"] != "ScheduleV2":
                continue
            found += 1
            settings = event["Properties"]
            if problem := schedule_problem(settings["ScheduleExpression"]):
                yield f"the schedule of {name}: {problem}"
            if settings["RetryPolicy"] != {"MaximumRetryAttempts": 0, "MaximumEventAgeInSeconds": 60}:
                yield f"the schedule of {name}: a late tick is of no use"
    if found != 4:
        yield f"{found} schedules, not 4: load, query, download and hunt have one"


# ---- What each function may do ----


def statements(name, resource):
    documents = [policy["PolicyDocument"] for policy in resource.get("Policies", [])]
    documents += [resource["PolicyDocument"]] if "PolicyDocument" in resource else []
    for document in documents:
        for statement in document["Statement"]:
            yield plain(statement)


def purpose(statement, function):
    """What permissions.json calls the resource of a statement."""
    variables = FUNCTIONS[function]["Environment"]["Variables"]
    queues = {"load": "MINUTES_QUEUE_URL", "query": "INBOX_QUEUE_URL", "download": "DOWNLOAD_QUEUE_URL"}
    sid = statement["Sid"]
    if sid == "Table":
        return "STATE_TABLE"
    if sid in ("Queue", "DeadLetters"):
        name = queues[function]
        queue = TEMPLATE["Resources"][function.capitalize()]["Properties"]["Environment"]["Variables"][name]["Ref"]
        dead = {"DeadLetters": "Dead"}.get(sid, "")
        if statement["Resource"] != {"Fn::GetAtt": [queue + dead, "Arn"]}:
            return None
        return f"dead-letter queue of {name}" if dead else name
    if sid in ("Key", "Secrets", "Tokens"):
        ingest = function == "ingest"
        name = {
            "Key": "VIRUSTOTAL_APIKEY_SECRET",
            "Secrets": "INGEST_SECRETS_SECRET" if ingest else "WEBHOOK_SECRETS_SECRET",
            "Tokens": "INGEST_TOKENS_SECRET",
        }[sid]
        return name if statement["Resource"] == variables[name] else None
    objects = all("/" in str(resource) for resource in as_list(statement["Resource"]))
    place = "RULES_ROOT" if sid in ("Rules", "RulesBucket") else "BUNDLE_BUCKET"
    return f"{place}/*" if objects else place


def roles():
    if set(FUNCTIONS) != set(PERMISSIONS):
        yield f"functions are {sorted(FUNCTIONS)}, in permissions.json {sorted(PERMISSIONS)}"
    for function, allowed in PERMISSIONS.items():
        given = {}
        for statement in statements(function, of_type("AWS::IAM::Role")[f"{function.capitalize()}Role"]):
            actions = as_list(statement["Action"])
            if statement["Sid"] in OF_LAMBDA:
                if actions != OF_LAMBDA[statement["Sid"]]:
                    yield f"{function}: {statement['Sid']} may do {actions}"
                continue
            of = purpose(statement, function)
            if of is None:
                yield f"{function}: {statement['Sid']} is about another resource than its setting"
            given.setdefault(of, set()).update(actions)
        for of in sorted(set(given) | set(allowed), key=str):
            has, wanted = given.get(of, set()), set(allowed.get(of, []))
            if has - wanted:
                yield f"{function}: {of} allows {sorted(has - wanted)}, which permissions.json does not"
            if wanted - has:
                yield f"{function}: {of} lacks {sorted(wanted - has)} of permissions.json"


def wildcards():
    kinds = {"AWS::IAM::Role", "AWS::IAM::ManagedPolicy", "AWS::SNS::TopicPolicy"}
    for name, what in RESOURCES.items():
        if what["Type"] not in kinds:
            continue
        for statement in statements(name, what["Properties"]):
            where = f"{name}, {statement['Sid']}"
            actions = as_list(statement["Action"])
            if any("*" in action for action in actions):
                yield f"{where}: a wildcard among the actions"
            for resource in as_list(statement["Resource"]):
                if resource == "*":
                    if {action.split(":")[0] for action in actions} - ANY_RESOURCE.get(name, set()):
                        yield f"{where}: any resource"
                # Only a prefix of objects' keys may end in a wildcard.
                elif isinstance(resource, str) and not re.fullmatch(r"[^*]*:s3:::[^*/]+/[^*]+\*|[^*]*", resource):
                    yield f"{where}: {resource}"
            yield from leading_keys(where, statement)


def leading_keys(where, statement):
    """Items by the beginnings that docs/architecture.md's table of the table has."""
    known = {re.sub(r"<.*", "", cells[1].strip("`")) for cells in table_of(ARCHITECTURE, "item")}
    condition = statement.get("Condition", {}).get("ForAllValues:StringLike", {})
    keys = condition.get("dynamodb:LeadingKeys", [])
    if statement["Sid"] == "Table" and not keys:
        yield f"{where}: any item"
    for key in keys:
        beginning = re.sub(r"#.*", "#", key)
        if beginning not in known or not re.fullmatch(r"[^*]+\*?", key) or key == "*":
            yield f"{where}: {key} is none of docs/architecture.md's keys ({sorted(known)})"


# ---- Queues ----


def constant(name):
    return eval(re.search(rf"const {name}: u32 = ([\d *]+);", INIT)[1])  # noqa: S307  a product of numbers


def queues():
    all_queues = {name: plain(what) for name, what in of_type("AWS::SQS::Queue").items()}
    dead = {
        what["RedrivePolicy"]["deadLetterTargetArn"]["Fn::GetAtt"][0]
        for what in all_queues.values()
        if "RedrivePolicy" in what
    }
    ends = {"LoadFailed"} | dead
    for name, queue in all_queues.items():
        if queue.get("SqsManagedSseEnabled") is not True:
            yield f"{name} is not encrypted"
        if queue["MessageRetentionPeriod"] != constant("RETENTION"):
            yield f"{name} keeps messages for another time than `vt aws init` makes it"
        if name not in ends and "RedrivePolicy" not in queue:
            yield f"{name} has no dead-letter queue"
        if "RedrivePolicy" in queue and queue["RedrivePolicy"]["maxReceiveCount"] != constant("DELIVERIES"):
            yield f"{name}: maxReceiveCount is not that of `vt aws init`"
        if name in ("Inbox", "Downloads") and queue["VisibilityTimeout"] != constant("VISIBILITY"):
            yield f"{name}: VisibilityTimeout is not that of `vt aws init`"
    for function, what in FUNCTIONS.items():
        for event in what.get("Events", {}).values():
            if event["Type"] != "SQS":
                continue
            mapping = event["Properties"]
            queue = all_queues[mapping["Queue"]["Fn::GetAtt"][0]]
            if queue["VisibilityTimeout"] < 6 * what["Timeout"]:
                yield f"{function}: its queue's VisibilityTimeout is less than six times its Timeout"
            if mapping.get("FunctionResponseTypes") != ["ReportBatchItemFailures"]:
                yield f"{function}: its mapping takes no partial failures"
            least = PARAMETERS[f"{function.capitalize()}Concurrency"]["MinValue"]
            if mapping["ScalingConfig"]["MaximumConcurrency"] >= least:
                yield f"{function}: its queue may take all of its concurrency"


# ---- Settings ----


def table_of(text, first, number=0):
    """The cells of a table whose head begins with a word; `number` counts the tables with that head from 0."""
    rows = text.split(f"\n| {first} |")[number + 1].split("\n\n", 1)[0].splitlines()[2:]
    return [[cell.strip() for cell in row.strip("|").split(" | ")] for row in rows]


def settings():
    groups = SETTINGS.count("\n| variable |")
    rows = [row for group in range(groups) for row in table_of(SETTINGS, "variable", group)]
    known = {name for row in rows for name in re.findall(r"`([A-Za-z_]+)`", row[0])}
    common = set(plain(TEMPLATE["Globals"]["Function"]["Environment"]["Variables"]))
    for function, what in FUNCTIONS.items():
        for variable in common | set(what["Environment"]["Variables"]):
            if variable not in known:
                yield f"{function}: {variable} is no setting of docs/settings.md"
    for name, parameter in PARAMETERS.items():
        if re.search("Secret|Key|Token|Password|HttpsProxy", name) and not name.endswith("Arn") and not parameter.get("NoEcho"):
            yield f"the parameter {name} shows a secret"
        if f"`{name}`" not in DEPLOYING:
            yield f"docs/aws.md does not tell of the parameter {name}"


# ---- Metrics ----


def known_metrics():
    """By name: dimensions, functions, and what else is said, of docs/operations.md's table."""
    known = {}
    for names, of, meaning in table_of(OPERATIONS, "metric"):
        for name, labels in re.findall(r"`(\w+)(?:\{([\w,]+)\})?`", names):
            known[name] = (set(labels.split(",")) if labels else set(), of, meaning)
    return known


def used_metrics():
    """Each metric of ours in alarms and on the dashboard: where, name, dimensions."""
    for name, alarm in of_type("AWS::CloudWatch::Alarm").items():
        alarm = plain(alarm)
        metrics = [alarm] + [one["MetricStat"]["Metric"] for one in alarm.get("Metrics", []) if "MetricStat" in one]
        for metric in metrics:
            if metric.get("Namespace") == NAMESPACE:
                yield name, metric["MetricName"], {d["Name"]: d["Value"] for d in metric["Dimensions"]}
    for widget in dashboard():
        title = widget["title"]
        for metric in widget["metrics"]:
            words = [word for word in metric if isinstance(word, str)]
            if words[:1] == [NAMESPACE]:
                yield title, words[1], dict(zip(words[2::2], words[3::2], strict=True))
            for found in re.findall(rf"\{{{NAMESPACE},([\w,]+)\}} MetricName=\"(\w+)\"", str(metric[0])):
                yield title, found[1], dict.fromkeys(found[0].split(","))


def dashboard():
    [board] = of_type("AWS::CloudWatch::Dashboard").values()
    return [widget["properties"] for widget in json.loads(board["DashboardBody"]["Fn::Sub"])["widgets"]]


def metrics():
    known = known_metrics()
    for where, name, dimensions in used_metrics():
        if name not in known:
            yield f"{where}: {name} is no metric of docs/operations.md"
            continue
        labels, of, meaning = known[name]
        if set(dimensions) != labels:
            yield f"{where}: {name} has the dimensions {sorted(labels)}, not {sorted(dimensions)}"
        for label, value in dimensions.items():
            told = of if label == "function" else meaning
            # Statuses are not listed, and windows at one metric of two.
            if value and label not in ("status", "window") and f"`{value}`" not in told:
                yield f"{where}: docs/operations.md tells of no {label} {value} of {name}"


def watched():
    """Alarms tell somebody and are explained; figures that follow from functions' sizes are theirs."""
    for name, alarm in of_type("AWS::CloudWatch::Alarm").items():
        if alarm.get("AlarmActions") != [{"Ref": "Alarms"}]:
            yield f"{name} tells nobody"
        if "TreatMissingData" not in alarm:
            yield f"{name} does not say what missing data mean"
        short = alarm["AlarmName"]["Fn::Sub"].removeprefix("${AWS::StackName}-")
        if f"`{short}`" not in DEPLOYING:
            yield f"docs/aws.md does not tell of the alarm {short}"
    durations = of_type("AWS::CloudWatch::Alarm")["DurationAlarm"]["Metrics"]
    [duration] = [one["Expression"] for one in durations if "Expression" in one]
    [cost] = [w["metrics"][0][0]["expression"] for w in dashboard() if w["title"].startswith("Cost")]
    for function, what in FUNCTIONS.items():
        if f"FILL({function}, 0) / {what['Timeout'] * 10}" not in duration:
            yield f"DurationAlarm does not know the timeout of {function}"
        if f"{what['MemorySize'] / 1024:.4g} * FILL({function}, 0)" not in cost:
            yield f"the dashboard's costs do not know the memory of {function}"


# ---- The rest ----


def functions():
    urls = of_type("AWS::Lambda::Url")
    if {url["TargetFunctionArn"]["Fn::GetAtt"][0] for url in urls.values()} != {"Ingest", "Query", "Download"}:
        yield "other function URLs than those of ingest, query and download"
    for name, url in urls.items():
        function = {"Ref": url["TargetFunctionArn"]["Fn::GetAtt"][0]}
        given = [p for p in of_type("AWS::Lambda::Permission").values() if p["FunctionName"] == function]
        actions = {p["Action"] for p in given if "FunctionUrlAuthType" in p or p.get("InvokedViaFunctionUrl")}
        if actions != {"lambda:InvokeFunctionUrl", "lambda:InvokeFunction"}:
            yield f"{name} lacks one of the two permissions of its callers"
    for function, what in FUNCTIONS.items():
        if what["CodeUri"] != f"../target/lambda/{function}.zip":
            yield f"{function} is not what `make package` makes"
        log = of_type("AWS::Logs::LogGroup").get(what["LoggingConfig"]["LogGroup"]["Ref"], {})
        name = {"Fn::Sub": f"/aws/lambda/${{AWS::StackName}}-{function}"}
        if "RetentionInDays" not in log or log["LogGroupName"] != name:
            yield f"{function} has no log group of its own that forgets"


def bucket():
    """What expires are folders that there are."""
    folders = set(re.findall(r"`([a-z]+/)`", ARCHITECTURE))
    rules = of_type("AWS::S3::Bucket")["Bucket"]["LifecycleConfiguration"]["Rules"]
    for rule in rules:
        if "Prefix" in rule and rule["Prefix"] not in folders:
            yield f"nothing is ever kept under {rule['Prefix']}"


def main():
    looks = [schedules, roles, wildcards, queues, settings, metrics, watched, functions, bucket]
    problems = [f"infra: {problem}" for look in looks for problem in look()]
    print(*problems, sep="\n", end="\n" if problems else "")
    if problems:
        sys.exit(1)
    print(f"infra: {len(looks)} looks at the template and what it has to agree with: well")


if __name__ == "__main__":
    main()
