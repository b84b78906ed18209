"""A stage that begins while storage is away."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest
from s3server import S3Server
from tcpproxy import Proxy

from rvk8s.contract import Env, ExitCode


@pytest.mark.parametrize("patience", ["120", ""])
def test_storage_is_waited_for_before_the_work_begins(s3: S3Server, patience: str) -> None:
    """With patience it hears at last that there is no such run; without, it gives up."""
    proxy = Proxy(s3.endpoint)
    proxy.away.set()
    run_uri = s3.bucket(f"waits-{patience or 'not'}") + "/runs/run-1"
    process = subprocess.Popen(
        [sys.executable, "-m", "rastervision.kubernetes.stage", "analyze"],
        env={
            **os.environ,
            "AWS_ENDPOINT_URL": proxy.url,
            Env.RUN_URI: run_uri,
            Env.STORAGE_PATIENCE: patience,
        },
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stderr is not None
        end = time.monotonic() + 60
        said = ""
        while "did not answer" not in said and time.monotonic() < end:
            said = process.stderr.readline()
        assert "trying again" in said if patience else "trying again" not in said
        proxy.away.clear()
        rest = process.communicate(timeout=90)[1]
        code = ExitCode.BAD_INPUT if patience else ExitCode.RETRYABLE
        assert process.returncode == code, rest
        assert ("there is no such run" in rest) == bool(patience)
    finally:
        process.kill()
        proxy.close()
