"""Makes a user of the emulator who may do what a policy says, and prints the two parts of its key.

Takes the endpoint and the policy (JSON).
"""

import sys
import uuid

from botocore.session import get_session

endpoint, policy = sys.argv[1:]
iam = get_session().create_client(
    "iam",
    endpoint_url=endpoint,
    region_name="us-east-1",
    aws_access_key_id="test",
    aws_secret_access_key="test",
)
name = uuid.uuid4().hex
iam.create_user(UserName=name)
iam.put_user_policy(UserName=name, PolicyName="only", PolicyDocument=policy)
key = iam.create_access_key(UserName=name)["AccessKey"]
print(key["AccessKeyId"], key["SecretAccessKey"])
