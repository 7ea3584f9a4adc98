"""The template of AWS for the bucket and the database, in an emulated AWS. It has not run on AWS itself.

Should happen: the stack is created; replicas may use their prefix of the bucket, and nothing else.
Should not: a public bucket or database; a rule that deletes objects that are in use.
"""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import boto3
import moto
import pytest
from cfnlint.decode import cfn_yaml

ROOT = Path(__file__).parents[3]
TEMPLATE = ROOT / "deploy" / "aws" / "store.yaml"
RESOURCES: dict[str, Any] = cfn_yaml.load(str(TEMPLATE))["Resources"]


def test_cfn_lint_finds_nothing() -> None:
    done = subprocess.run(
        [Path(sys.executable).with_name("cfn-lint"), TEMPLATE], capture_output=True, text=True, timeout=300, check=False
    )
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.filterwarnings("ignore:Tried to parse AWS..S3..BucketPolicy but it's not supported:UserWarning")
def test_the_stack_is_created(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-central-1")
    # moto does not know this attribute of a database.
    template = TEMPLATE.read_text().replace("MasterUserSecret.SecretArn", "Endpoint.Port")
    with moto.mock_aws():
        network, formation = boto3.client("ec2"), boto3.client("cloudformation")
        (vpc,) = (one["VpcId"] for one in network.describe_vpcs()["Vpcs"])
        values = {
            "Vpc": vpc,
            "Subnets": ",".join(one["SubnetId"] for one in network.describe_subnets()["Subnets"]),
            "ReplicaSecurityGroup": network.describe_security_groups()["SecurityGroups"][0]["GroupId"],
        }
        formation.create_stack(
            StackName="pygrid",
            TemplateBody=template,
            Capabilities=["CAPABILITY_IAM"],
            Parameters=[{"ParameterKey": name, "ParameterValue": value} for name, value in values.items()],
        )
        (stack,) = formation.describe_stacks(StackName="pygrid")["Stacks"]
        assert stack["StackStatus"] == "CREATE_COMPLETE"
        outputs = {one["OutputKey"]: one["OutputValue"] for one in stack["Outputs"]}
        (bucket,) = (one["Name"] for one in boto3.client("s3").list_buckets()["Buckets"])
        assert outputs["Store"] == f"s3://{bucket}/pygrid"
        (database,) = boto3.client("rds").describe_db_instances()["DBInstances"]
        assert (database["MultiAZ"], database["PubliclyAccessible"], database["StorageEncrypted"]) == (
            True,
            False,
            True,
        )
        assert database["Endpoint"]["Address"] == outputs["DatabaseHost"]
        role = outputs["Role"].rpartition("/")[2]
        policy = boto3.client("iam").get_role_policy(RoleName=role, PolicyName="bucket")["PolicyDocument"]
        page = (ROOT / "docs/how-to/scale.md").read_text()
        if isinstance(policy, str):  # moto keeps what the template has
            policy = ast.literal_eval(policy)
        assert policy["Statement"] == documented_policy(page, bucket)


def documented_policy(page: str, bucket: str) -> Any:
    """The policy of the page, for another bucket."""
    begin = page.index('    {"Version": "2012-10-17"')
    text = page[begin : page.index("\n\n", begin)]
    return json.loads(text.replace("arn:aws:s3:::hospital", f"arn:aws:s3:::{bucket}"))["Statement"]


def test_the_bucket_is_private_and_keeps_what_is_in_use() -> None:
    bucket = RESOURCES["Bucket"]
    assert set(bucket["Properties"]["PublicAccessBlockConfiguration"].values()) == {True}
    assert bucket["DeletionPolicy"] == bucket["UpdateReplacePolicy"] == "Retain"
    assert bucket["Properties"]["VersioningConfiguration"] == {"Status": "Enabled"}
    for rule in bucket["Properties"]["LifecycleConfiguration"]["Rules"]:
        assert not {"ExpirationInDays", "ExpirationDate", "Transitions"} & rule.keys()
