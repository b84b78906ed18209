"""The one node: a bridge, containerd, kubelet, kube-proxy and CoreDNS around the control plane.

Needs root. Everything that it writes lies in one state folder, but for the bridge, network
namespaces, nft tables and control groups, which `leftovers.clear` removes. Pods speak to each
other, to the API and to what listens on the bridge's address; nothing leaves the machine.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from cluster import images, leftovers, nodeimages, processes
from cluster.controlplane import SERVICES, ControlPlane, kubectl_json, succeeds
from cluster.images import ctr
from cluster.programs import program

NAME = "node1"
BRIDGE = "rvk8s0"
BRIDGE_MAC = "02:00:0a:f4:00:01"
ADDRESS = "10.244.0.1"
PODS = "10.244.0.0/24"
DNS_SERVICE = "10.96.0.10"
GPUS = 4


@dataclass(frozen=True)
class Node:
    """A one-node cluster whose state lies in `folder`.

    Attributes:
        folder: certificates, etcd's data, images, logs, pid files.
    """

    folder: Path

    @property
    def name(self) -> str:
        return NAME

    @property
    def plane(self) -> ControlPlane:
        ports = (23790, 23800, 10257, 10259)
        return ControlPlane(self.folder / "plane", ADDRESS, 6443, scheduler=True, ports=ports)

    @property
    def kubeconfig(self) -> Path:
        return self.plane.kubeconfig

    @property
    def socket(self) -> Path:
        """containerd's."""
        return self.folder / "containerd.sock"

    def runs(self) -> bool:
        """Whether the node is there and ready."""
        up = ("kubelet", "containerd", "proxy", "coredns")
        if any(processes.pid(self.folder, name) is None for name in up):
            return False
        return self._is_ready()

    def start(self) -> None:
        """Clear what an earlier start left, then start everything and wait until it is ready.

        Images stay from earlier starts, everything else is new.

        Raises:
            leftovers.CannotClear: another cluster's kubelet runs on this machine.
            processes.NotReady: something did not come up in time.
        """
        leftovers.clear(self.folder, BRIDGE)
        self.folder.mkdir(parents=True, exist_ok=True)
        for name in ("plane", "kubelet", "cni", "pods"):
            shutil.rmtree(self.folder / name, ignore_errors=True)
        for log in self.folder.glob("*.log"):
            log.unlink()
        self._make_bridge()
        self._start_containerd()
        self.plane.start()
        self._start_kubelet()
        self._start_proxy()
        self._start_dns()
        processes.wait("the node", self._is_ready, 60, self.folder, "kubelet")
        self.give_gpus(GPUS)

    def stop(self) -> None:
        """End everything; images stay."""
        leftovers.clear(self.folder, BRIDGE)

    def image_names(self) -> set[str]:
        """Return the names of the images that are there."""
        return images.names(self.socket)

    def load_image(self, archive: Path) -> None:
        """Load a docker archive."""
        images.import_archive(self.socket, archive)

    def give_gpus(self, count: int) -> None:
        """Let the node's status tell of GPUs, so that pods which ask for them are scheduled."""
        path = "/status/capacity/nvidia.com~1gpu"
        patch = json.dumps([{"op": "add", "path": path, "value": str(count)}])
        node = ("patch", "node", NAME, "--subresource=status", "--type=json", "-p", patch)
        self.plane.kubectl(*node)
        processes.wait("GPUs in the node's status", lambda: self._gpus() == count, 30)

    def _gpus(self) -> int:
        node = kubectl_json(self.kubeconfig, "get", "node", NAME)
        return int(node["status"]["allocatable"].get("nvidia.com/gpu", 0))

    def _is_ready(self) -> bool:
        condition = "--for=condition=Ready"
        return succeeds(self.kubeconfig, "wait", condition, f"node/{NAME}", "--timeout=0s")

    def _make_bridge(self) -> None:
        Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
        # The API server binds the address before a pod's interface brings the bridge up.
        # With an address of its own: else it takes the least of its ports', which changes when pods
        # come and go, and the others send to the old one for half a minute.
        _run("ip", "link", "add", BRIDGE, "address", BRIDGE_MAC, "type", "bridge")
        _run("ip", "address", "add", f"{ADDRESS}/24", "dev", BRIDGE)
        _run("ip", "link", "set", BRIDGE, "up")
        # Services need a route before kube-proxy can turn it; without this one they would be asked
        # for outside while there is no rule yet, and never be found where there is no outside.
        _run("ip", "route", "add", SERVICES, "dev", BRIDGE)
        network = {
            "cniVersion": "0.4.0",
            "name": "rvk8s",
            "plugins": [
                {
                    "type": "bridge",
                    "bridge": BRIDGE,
                    "isGateway": True,
                    "hairpinMode": True,
                    "ipam": {
                        "type": "host-local",
                        "dataDir": str(self.folder / "cni" / "addresses"),
                        "ranges": [[{"subnet": PODS, "rangeStart": "10.244.0.10"}]],
                        "routes": [{"dst": "0.0.0.0/0"}],
                    },
                },
                {"type": "portmap", "capabilities": {"portMappings": True}},
            ],
        }
        configs = self.folder / "cni" / "net.d"
        configs.mkdir(parents=True)
        (configs / "10-rvk8s.conflist").write_text(json.dumps(network, indent=1))

    def _start_containerd(self) -> None:
        config = self.folder / "containerd.toml"
        config.write_text(_CONTAINERD.format(folder=self.folder, pause=nodeimages.PAUSE))
        processes.start(self.folder, "containerd", ["containerd", "--config", config])
        answers = lambda: self.socket.exists() and ctr(self.socket, "version", ok=True)  # noqa: E731
        processes.wait("containerd", answers, 30, self.folder, "containerd")
        for container in ctr(self.socket, "containers", "list", "-q").split():
            ctr(self.socket, "containers", "delete", container)  # of pods that are no more
        nodeimages.restore(self, [nodeimages.PAUSE])

    def _start_kubelet(self) -> None:
        folder, pki = self.folder, self.plane.pki
        config = folder / "kubelet.json"
        config.write_text(json.dumps(self._kubelet_config(pki), indent=1))
        command: list[str | Path] = [
            program("kubelet"),
            f"--config={config}",
            f"--kubeconfig={self.plane.folder}/kubelet.kubeconfig",
            f"--root-dir={folder}/kubelet",
            f"--cert-dir={folder}/kubelet/pki",
            f"--hostname-override={NAME}",
            f"--node-ip={ADDRESS}",
        ]
        processes.start(folder, "kubelet", command)

    def _kubelet_config(self, pki: Path) -> dict[str, object]:
        return {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "address": ADDRESS,
            "authentication": {
                "x509": {"clientCAFile": str(pki / "ca.crt")},
                "anonymous": {"enabled": False},
                "webhook": {"enabled": True},
            },
            "authorization": {"mode": "Webhook"},
            "containerRuntimeEndpoint": f"unix://{self.socket}",
            "cgroupDriver": "cgroupfs",
            "failCgroupV1": False,
            "failSwapOn": False,
            "clusterDNS": [DNS_SERVICE],
            "clusterDomain": "cluster.local",
            "resolvConf": "",
            "podLogsDir": str(self.folder / "pods"),
            "volumePluginDir": str(self.folder / "kubelet" / "plugins"),
            "serializeImagePulls": False,
            "nodeStatusUpdateFrequency": "1s",  # so soon GPUs are counted; the default is 10 s
            "imageGCHighThresholdPercent": 100,
            "imageGCLowThresholdPercent": 99,
            # No limit for the disk: the kubelet would delete images to keep it, and building them
            # again takes minutes. (containerd 1.6 cannot pin images.)
            "evictionHard": {"memory.available": "100Mi"},
        }

    def _start_proxy(self) -> None:
        command: list[str | Path] = [
            program("kube-proxy"),
            f"--kubeconfig={self.plane.folder}/proxy.kubeconfig",
            f"--hostname-override={NAME}",
            "--proxy-mode=nftables",
            f"--cluster-cidr={PODS}",
            "--masquerade-all",  # two pods of one bridge answer each other past the service address
            "--conntrack-max-per-core=0",
            "--conntrack-tcp-timeout-established=0s",
            "--conntrack-tcp-timeout-close-wait=0s",
            "--bind-address=127.0.0.1",
        ]
        processes.start(self.folder, "proxy", command)

    def _start_dns(self) -> None:
        corefile = self.folder / "Corefile"
        corefile.write_text(_COREFILE.format(address=ADDRESS, folder=self.plane.folder))
        self.plane.kubectl("apply", "-f", "-", stdin=json.dumps(_DNS_OBJECTS))
        processes.start(self.folder, "coredns", [program("coredns"), "-conf", corefile])
        listens = lambda: processes.listens(ADDRESS, 53)  # noqa: E731
        processes.wait("CoreDNS", listens, 30, self.folder, "coredns")


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, timeout=30)


_CONTAINERD = """\
version = 2
root = "{folder}/containerd"
state = "{folder}/containerd-run"

[grpc]
  address = "{folder}/containerd.sock"

[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{pause}"
  # Without CAP_SYS_RESOURCE no pod starts otherwise.
  restrict_oom_score_adj = true
  netns_mounts_under_state_dir = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "{folder}/cni/net.d"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
"""

# Nothing but the cluster's own names is answered: tests ask for nothing else.
_COREFILE = """\
cluster.local:53 {{
    bind {address}
    errors
    kubernetes cluster.local {{
        kubeconfig {folder}/coredns.kubeconfig
        ttl 1
    }}
}}
"""

_DNS_OBJECTS = {
    "apiVersion": "v1",
    "kind": "List",
    "items": [
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": "kube-dns", "namespace": "kube-system"},
            "spec": {
                "clusterIP": DNS_SERVICE,
                "ports": [
                    {"name": "dns", "port": 53, "protocol": "UDP"},
                    {"name": "dns-tcp", "port": 53, "protocol": "TCP"},
                ],
            },
        },
        {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {
                "name": "kube-dns",
                "namespace": "kube-system",
                "labels": {"kubernetes.io/service-name": "kube-dns"},
            },
            "addressType": "IPv4",
            "ports": [
                {"name": "dns", "port": 53, "protocol": "UDP"},
                {"name": "dns-tcp", "port": 53, "protocol": "TCP"},
            ],
            "endpoints": [{"addresses": [ADDRESS], "conditions": {"ready": True}}],
        },
    ],
}
