"""Runs the emulator of AWS as testdata/aws/run.py does, with what it lacks to hold roles to the template's policies.

It knows actions, resources and most conditions, but no `dynamodb:LeadingKeys`: here it learns `pk` of all items that
a request names. It asks for `sqs:SendMessageBatch`, which IAM does not have: that is `sqs:SendMessage`. And as nobody
can speak TLS to it, its plain HTTP on loopback counts as that: the bucket takes nothing else. Takes the emulator's
own directory, as run.py.
"""

import json
import re
import runpy
from pathlib import Path

from ministack.core import iam_actions, iam_evaluator

RUN = Path(__file__).resolve().parent.parent / "testdata/aws/run.py"
BATCHES = {"sqs:SendMessageBatch": "sqs:SendMessage"}
action = iam_actions.extract_iam_action
known = iam_actions.dynamodb_service_context
pin = iam_evaluator.pin_request_origin


def partitions(request):
    """`pk` of each item that a request of DynamoDB is about."""
    if isinstance(request.get("KeyConditionExpression"), str):
        names, values = request.get("ExpressionAttributeNames", {}), request["ExpressionAttributeValues"]
        for name, value in re.findall(r"([#\w]+)\s*=\s*(:\w+)", request["KeyConditionExpression"]):
            if names.get(name, name) == "pk":
                yield values[value]["S"]
        return
    for item in (request.get("Key"), request.get("Item")):
        if item:
            yield item["pk"]["S"]
    for action in request.get("TransactItems", []):
        for one in action.values():
            yield from partitions(one)


def context(body):
    found = known(body)
    # Where there are none, the request matches no statement that names some.
    found["dynamodb:LeadingKeys"] = list(partitions(json.loads(body or b"{}"))) or [""]
    return found


iam_actions.extract_iam_action = lambda *request: BATCHES.get(found := action(*request), found)
iam_actions.dynamodb_service_context = context
iam_evaluator.pin_request_origin = lambda address, _: pin(address, True)
runpy.run_path(str(RUN), run_name="__main__")
