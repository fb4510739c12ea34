"""Puts the files of a directory into a bucket of the emulator, which it makes where it is not there.

Takes the endpoint, the bucket, a prefix and the directory.
"""

import pathlib
import sys

from botocore.session import get_session

endpoint, bucket, prefix, directory = sys.argv[1:]
s3 = get_session().create_client(
    "s3",
    endpoint_url=endpoint,
    region_name="us-east-1",
    aws_access_key_id="test",
    aws_secret_access_key="test",
)
s3.create_bucket(Bucket=bucket)
for file in pathlib.Path(directory).iterdir():
    s3.put_object(Bucket=bucket, Key=prefix + file.name, Body=file.read_bytes())
