"""Puts an entry into the emulator's Secrets Manager.

Takes the endpoint, the name and the value.
"""

import sys

from botocore.session import get_session

endpoint, name, value = sys.argv[1:]
secrets = get_session().create_client(
    "secretsmanager",
    endpoint_url=endpoint,
    region_name="us-east-1",
    aws_access_key_id="test",
    aws_secret_access_key="test",
)
secrets.create_secret(Name=name, SecretString=value)
