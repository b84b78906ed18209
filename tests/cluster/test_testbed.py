"""The test cluster itself: what the other tests take for granted."""

from __future__ import annotations

import subprocess

import pytest
from cluster import processes, projectimage
from cluster.controlplane import kubectl, kubectl_json
from cluster.pods import create, output, phase, pod
from cluster.programs import program
from cluster.testbed import Testbed


def test_restricted_pods_run_and_others_are_refused(testbed: Testbed, team: str) -> None:
    create(testbed, team, pod(testbed, "good", "id", "-u"))
    bad = pod(testbed, "bad", "id")
    del bad["spec"]["containers"][0]["securityContext"]
    with pytest.raises(subprocess.CalledProcessError) as refused:
        create(testbed, team, bad)
    assert "violates PodSecurity" in refused.value.stderr
    assert output(testbed, team, "good").strip() == "10001"


def test_the_first_process_hands_signals_on_and_reaps(testbed: Testbed, team: str) -> None:
    # The child leaves an orphan that ends at once: it must not stay as a zombie.
    script = (
        "import os, signal, sys, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: (print('got TERM', flush=True), sys.exit(0)))\n"
        "if os.fork() == 0:\n"
        "    os._exit(0 if os.fork() else os.EX_OK)\n"
        "os.wait(); time.sleep(1)\n"
        "stats = [open(f'/proc/{p}/stat').read() for p in os.listdir('/proc') if p.isdigit()]\n"
        "print('zombies', sum(') Z ' in stat for stat in stats), open('/proc/1/comm').read())\n"
        "sys.stdout.flush()\n"
        "time.sleep(600)\n"
    )
    create(testbed, team, pod(testbed, "init", "python3", "-c", script))
    logs = ("-n", team, "logs", "init")
    said = lambda: "zombies" in kubectl(testbed.kubeconfig, *logs)  # noqa: E731
    running = ("-n", team, "wait", "--for=condition=Ready", "pod/init", "--timeout=60s")
    kubectl(testbed.kubeconfig, *running, seconds=90)
    processes.wait("the pod's first words", said, 30)
    text = kubectl(testbed.kubeconfig, *logs)
    assert "zombies 0 tini" in text, text
    command = [program("kubectl"), f"--kubeconfig={testbed.kubeconfig}", *logs, "--follow"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as follow:
        kubectl(testbed.kubeconfig, "-n", team, "delete", "pod", "init", "--timeout=25s")
        assert "got TERM" in follow.communicate(timeout=20)[0]


def test_gpus_are_scheduled(testbed: Testbed, team: str) -> None:
    create(testbed, team, pod(testbed, "one", "true", gpus=1), pod(testbed, "five", "id", gpus=5))
    # The node has four, which other tests' trainings hold for minutes.
    output(testbed, team, "one", seconds=600)
    assert phase(testbed, team, "five") == "Pending"
    found = kubectl_json(testbed.kubeconfig, "-n", team, "get", "pod", "five")
    assert "Insufficient nvidia.com/gpu" in found["status"]["conditions"][0]["message"]


def test_pods_find_services_by_name(testbed: Testbed, team: str) -> None:
    serve = (
        "import http.server as h; "
        "h.HTTPServer(('', 8000), h.SimpleHTTPRequestHandler).serve_forever()"
    )
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "server"},
        "spec": {"selector": {"app": "server"}, "ports": [{"port": 80, "targetPort": 8000}]},
    }
    create(testbed, team, service, pod(testbed, "server", "python3", "-c", serve))
    ask = (
        "import time, urllib.request as u\n"
        "for _ in range(60):\n"
        "    try: print(u.urlopen('http://server', timeout=2).status); break\n"
        "    except OSError: time.sleep(0.5)\n"
        "else: raise SystemExit('no answer')\n"
    )
    create(testbed, team, pod(testbed, "asks", "python3", "-c", ask))
    assert output(testbed, team, "asks").strip() == "200"


def test_one_user_writes_and_one_only_reads(testbed: Testbed, team: str) -> None:
    script = (
        "import boto3, os, botocore.exceptions\n"
        "client = boto3.client('s3')\n"
        "bucket = os.environ['BUCKET']\n"
        "try: client.put_object(Bucket=bucket, Key=os.environ['KEY'], Body=b'written')\n"
        "except botocore.exceptions.ClientError as e: print(e.response['Error']['Code'])\n"
        "print(client.get_object(Bucket=bucket, Key=os.environ['KEY'])['Body'].read().decode())\n"
    )
    said = []
    for name, (key, secret) in (("writer", testbed.writer), ("reader", testbed.reader)):
        env = {
            "AWS_ENDPOINT_URL": testbed.endpoint,
            "AWS_ACCESS_KEY_ID": key,
            "AWS_SECRET_ACCESS_KEY": secret,
            "AWS_REGION": "us-east-1",
            "BUCKET": testbed.bucket.removeprefix("s3://"),
            "KEY": f"{team}/file",
        }
        create(testbed, team, pod(testbed, name, "python3", "-c", script, env=env))
        said.append(output(testbed, team, name).split())
    assert said == [["written"], ["AccessDenied", "written"]]


def test_the_operator_makes_pods_of_a_pytorchjob(testbed: Testbed, team: str) -> None:
    template = pod(testbed, "x", "sh", "-c", "echo $PET_NNODES $PET_NPROC_PER_NODE")
    template["spec"]["containers"][0]["name"] = "pytorch"
    template["spec"].pop("restartPolicy")
    worker = {"replicas": 2, "restartPolicy": "Never", "template": {"spec": template["spec"]}}
    job = {
        "apiVersion": "kubeflow.org/v1",
        "kind": "PyTorchJob",
        "metadata": {"name": "job"},
        "spec": {
            "nprocPerNode": "2",
            "elasticPolicy": {"rdzvBackend": "c10d", "minReplicas": 2, "maxReplicas": 2},
            "pytorchReplicaSpecs": {"Worker": worker},
        },
    }
    create(testbed, team, job)
    done = ("wait", "--for=condition=Succeeded", "pytorchjob/job", "--timeout=60s")
    kubectl(testbed.kubeconfig, "-n", team, *done, seconds=90)
    assert output(testbed, team, "job-worker-0").split() == ["2:2", "2"]


def test_the_drivers_image_is_small(testbed: Testbed) -> None:
    if testbed.node is None:
        pytest.skip("NOT TESTED: the image's size, which the one-node cluster knows")
    assert projectimage.size(testbed.node, testbed.images[1]) <= 250e6
