"""Reads events as Azul's own readers do.

Takes lines `{"model": "binary", "event": {…}}` from standard input, and writes a line for each event that Azul's
models of it do not accept: the model, the event's place in the input from 0, and the complaint. Then the number of
events read.
"""

import json
import sys

import pydantic
from azul_bedrock import models_network

MODELS = {
    "binary": models_network.BinaryEvent,
    "download": models_network.DownloadEvent,
    "plugin": models_network.PluginEvent,
    "status": models_network.StatusEvent,
}

read = 0
for line in sys.stdin:
    event = json.loads(line)
    try:
        MODELS[event["model"]].model_validate(event["event"])
    except pydantic.ValidationError as error:
        for complaint in error.errors(include_input=False, include_url=False):
            place = ".".join(map(str, complaint["loc"]))
            print(f"{event['model']} {read}: {place}: {complaint['msg']}")
    read += 1
print(read)
