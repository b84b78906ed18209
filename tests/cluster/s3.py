"""The cluster's S3 server, versitygw: one user may write the bucket, another only read it."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster import processes
from cluster.programs import program

BUCKET = "rvk8s-test"
_ROOT = ("rvk8s-root", "rvk8s-root-secret")
#: access key -> secret of the users; the first owns the bucket.
USERS = {"rvk8s-writer": "rvk8s-writer-secret", "rvk8s-reader": "rvk8s-reader-secret"}
WRITER, READER = USERS


@dataclass(frozen=True)
class S3:
    """A server, running or to be started.

    Attributes:
        folder: its users, its buckets (`data/BUCKET`), its log.
        host: the address that it binds, reachable from pods.
    """

    folder: Path
    host: str
    port: int = 7070

    @property
    def endpoint(self) -> str:
        return f"http://{self.host}:{self.port}"

    def environ(self, user: str = WRITER) -> dict[str, str]:
        """What makes boto3, GDAL and rvk8s use it as one of its users."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": user,
            "AWS_SECRET_ACCESS_KEY": USERS[user],
            "AWS_REGION": "us-east-1",
        }

    def start(self) -> None:
        """Start it with what its folder holds; users and the bucket are made if it is new."""
        new = not self.folder.exists()
        for name in ("data", "sidecar", "users"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        key, secret = _ROOT
        command = [program("versitygw"), "--port", f"{self.host}:{self.port}"]
        command += ["--iam-dir", self.folder / "users", "--iam-cache-disable"]
        command += ["posix", "--sidecar", self.folder / "sidecar", self.folder / "data"]
        environ = {"ROOT_ACCESS_KEY_ID": key, "ROOT_SECRET_ACCESS_KEY": secret}
        processes.start(self.folder, "versitygw", command, environ)
        listens = lambda: processes.listens(self.host, self.port)  # noqa: E731
        processes.wait("the S3 server", listens, 30, self.folder, "versitygw")
        if new:
            self._make_users()

    def stop(self) -> None:
        """End it at once, as a crash does; what it holds stays."""
        processes.stop(self.folder, "versitygw", seconds=0)

    def clear(self) -> None:
        """End it and forget everything."""
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def runs(self) -> bool:
        return processes.pid(self.folder, "versitygw") is not None

    def _make_users(self) -> None:
        for user, secret in USERS.items():
            self._admin("create-user", f"--access={user}", f"--secret={secret}", "--role=user")
        self._admin("create-bucket", f"--bucket={BUCKET}", f"--owner={WRITER}")
        client = self.client(WRITER)
        # Where a bucket has a policy, its owner too may only do what the policy says.
        allowed = {WRITER: ["s3:*"], READER: ["s3:GetObject", "s3:ListBucket"]}
        statements = [
            {
                "Effect": "Allow",
                "Principal": {"AWS": [user]},
                "Action": actions,
                "Resource": [f"arn:aws:s3:::{BUCKET}", f"arn:aws:s3:::{BUCKET}/*"],
            }
            for user, actions in allowed.items()
        ]
        policy = {"Version": "2012-10-17", "Statement": statements}
        client.put_bucket_policy(Bucket=BUCKET, Policy=json.dumps(policy))

    def client(self, user: str = WRITER) -> Any:
        """A boto3 client of one of its users."""
        import boto3

        return boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            aws_access_key_id=user,
            aws_secret_access_key=USERS[user],
            region_name="us-east-1",
        )

    def _admin(self, *args: str) -> None:
        key, secret = _ROOT
        command = [program("versitygw"), "admin", "--endpoint-url", self.endpoint, *args]
        environ = {"ADMIN_ACCESS_KEY_ID": key, "ADMIN_SECRET_ACCESS_KEY": secret}
        for attempt in range(3):
            done = subprocess.run(
                command, env=environ, check=False, capture_output=True, text=True, timeout=30
            )
            if done.returncode == 0:
                return
            time.sleep(0.2 * attempt)
        raise AssertionError(f"versitygw admin {args[0]}: {done.stdout}{done.stderr}")
