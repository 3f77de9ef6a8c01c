"""docker-py against the engine that DOCKER_HOST names: what its users call, and what they get.

Every call that is made is noted by its route; at the end they are printed, so that the Rust side can compare them with the
table in docs/reference/docker-api.md.
"""

import io
import json
import os
import re
import socket
import sys
import tarfile
import threading
import time

import docker
from docker.errors import APIError, NotFound

calls = set()
_send = docker.api.client.APIClient.send


def noting(self, request, **kwargs):
    path = re.sub(r"^/v[0-9.]+", "", re.sub(r"\?.*", "", request.path_url))
    calls.add((request.method, path))
    return _send(self, request, **kwargs)


docker.api.client.APIClient.send = noting

client = docker.from_env(timeout=60)
api = client.api


def tar_of(name, data):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        facts = tarfile.TarInfo(name)
        facts.size = len(data)
        tar.addfile(facts, io.BytesIO(data))
    return out.getvalue()


def eventually(holds):
    deadline = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < deadline, "still not so"
        time.sleep(0.01)


def refused(status, call, *args, **kwargs):
    try:
        call(*args, **kwargs)
    except APIError as error:
        assert error.response.status_code == status, error
        return error.explanation
    raise AssertionError(f"{call} {args} was not refused")


assert client.ping()
assert client.version()["ApiVersion"]
info = client.info()
assert info["ServerVersion"] and info["Swarm"]["LocalNodeState"] == "inactive", info
events = client.events(decode=True)

# Containers
assert client.containers.run("busybox", ["echo", "hello"], remove=True, network_mode="none") == b"hello\n"
try:
    client.containers.run("busybox", ["sh", "-c", "echo bad >&2; exit 3"], remove=True, network_mode="none")
    raise AssertionError("it must fail")
except docker.errors.ContainerError as error:
    assert error.exit_status == 3 and b"bad" in error.stderr, error
box = client.containers.run(
    "busybox",
    ["sh", "-c", "echo out; echo err >&2; trap 'exit 0' TERM; while :; do sleep 0.1; done"],
    name="box",
    detach=True,
    network_mode="none",
    labels={"tier": "web"},
    environment={"A": "1"},
    mem_limit="64m",
    volumes={"data": {"bind": "/data", "mode": "rw"}},
    tmpfs={"/t": "size=1m"},
    ulimits=[docker.types.Ulimit(name="nofile", soft=100, hard=200)],
    healthcheck={"test": ["CMD", "true"], "interval": 1000000000},
)
box.reload()
assert box.status == "running" and box.attrs["HostConfig"]["Memory"] == 64 << 20
assert client.containers.get("box").id == box.id == client.containers.list(filters={"label": "tier=web"})[0].id
assert client.containers.list(all=True, limit=1, since=None)[0].short_id
follow = box.logs(stream=True, follow=True, stdout=True, stderr=False)
assert next(follow).startswith(b"out")
assert b"sh" in " ".join(sum(box.top(ps_args="aux")["Processes"], [])).encode()
assert box.stats(stream=False)["memory_stats"]["limit"] == 64 << 20
assert next(box.stats(stream=True, decode=True))["name"] == "/box"
code, output = box.exec_run(["sh", "-c", "ulimit -n; echo $A"])
assert (code, output) == (0, b"100\n1\n"), (code, output)
code, (out, err) = box.exec_run(["sh", "-c", "echo o; echo e >&2; exit 4"], demux=True)
assert (code, out, err) == (4, b"o\n", b"e\n")
made = api.exec_create(box.id, ["cat"], stdin=True, tty=True)
stream = api.exec_start(made["Id"], socket=True, tty=True)
api.exec_resize(made["Id"], 30, 100)
eventually(lambda: api.exec_inspect(made["Id"])["Running"])
raw = getattr(stream, "_sock", stream)
raw.settimeout(60)
raw.sendall(b"typed\n")
seen = b""
while b"typed\r\n" not in seen:
    seen += raw.recv(100)
raw.sendall(b"\x04")
raw.close()
assert refused(404, api.exec_inspect, "0" * 64)

# Files
assert box.put_archive("/data", tar_of("hello", b"world"))
bits, facts = box.get_archive("/data/hello")
packed = tarfile.open(fileobj=io.BytesIO(b"".join(bits)))
assert facts["size"] == 5 and packed.extractfile("hello").read() == b"world"
assert "Could not find the file /none" in refused(404, box.get_archive, "/none")
assert refused(404, box.put_archive, "/none", tar_of("x", b""))
response = api.head(api._url("/containers/{0}/archive", box.id), params={"path": "/data/hello"})
assert response.status_code == 200 and response.headers["X-Docker-Container-Path-Stat"]
response = api.head(api._url("/containers/{0}/archive", box.id), params={"path": "/none"})
assert response.status_code == 404
box.exec_run(["touch", "/new"])
assert {"Path": "/new", "Kind": 1} in box.diff()
assert b"new" in b"".join(box.export())
image = box.commit("saved", "1", message="said", changes=["CMD [\"true\"]"])
assert client.images.get("saved:1").id == image.id and image.history()[0]["Comment"] == "said"

# Life
box.pause()
box.reload()
assert box.status == "paused"
box.unpause()
box.update(mem_limit="128m", memswap_limit="256m")
box.rename("crate")
box.reload()
assert (box.name, box.attrs["HostConfig"]["Memory"]) == ("crate", 128 << 20)
box.restart(timeout=5)
waiter = []
thread = threading.Thread(target=lambda: waiter.append(box.wait()))
thread.start()
assert "is already in use by container" in refused(409, client.containers.create, "busybox", name="crate")
assert refused(409, box.remove)
box.stop(timeout=5)
thread.join(60)
assert waiter and "StatusCode" in waiter[0], waiter
assert refused(409, box.pause) and refused(409, box.kill)
box.start()
box.kill()
assert box.wait()["StatusCode"] == 137
box.remove(v=True)
assert refused(404, client.containers.get, "crate")
attached = client.containers.create("busybox", ["cat"], stdin_open=True, tty=False, network_mode="none", name="att")
sock = attached.attach_socket(params={"stdin": 1, "stdout": 1, "stream": 1})
attached.start()
raw = getattr(sock, "_sock", sock)
raw.settimeout(60)
raw.sendall(b"through\n")
seen = b""
while b"through\n" not in seen:
    seen += raw.recv(100)
raw.shutdown(socket.SHUT_WR)
raw.close()
attached.remove(force=True)
terminal = client.containers.run("busybox", ["sleep", "600"], tty=True, detach=True, network_mode="none")
terminal.resize(20, 80)
terminal.remove(force=True)
client.containers.create("busybox", network_mode="none")
assert len(client.containers.prune()["ContainersDeleted"]) == 1

# Images
assert client.images.list("busybox")[0].tags == ["busybox:latest"]
assert client.images.get("busybox").tag("again", "2")
archive = b"".join(client.images.get("again:2").save(named=True))
client.images.remove("again:2")
assert client.images.load(archive)[0].tags
assert b"".join(api._stream_raw_result(api._get(api._url("/images/get"), params={"names": ["busybox"]}, stream=True)))
client.images.remove("saved:1")
imported = json.loads(api.import_image_from_data(tar_of("etc", b"x"), repository="made", tag="1").splitlines()[-1])
assert imported["status"].startswith("sha256:"), imported
assert "ImagesDeleted" in client.images.prune(filters={"dangling": True})
assert refused(404, client.images.get, "none:1")

# Volumes
volume = client.volumes.create("vol", labels={"a": "b"})
assert client.volumes.get("vol").attrs["Labels"] == {"a": "b"}
assert [v.name for v in client.volumes.list(filters={"label": "a=b"})] == ["vol"]
volume.remove()
client.volumes.create()
assert len(client.volumes.prune()["VolumesDeleted"]) == 1
assert refused(404, client.volumes.get, "vol")
client.volumes.get("data").remove()

# A registry that is not there
refused(500, client.images.get_registry_data, "127.0.0.1:1/nobody")

# Networks
network = client.networks.create("net", labels={"a": "b"})
assert client.networks.get("net").id == network.id and client.networks.list(names=["net"])
on = client.containers.run("busybox", ["sleep", "600"], detach=True, network="net", name="on")
assert "net" in client.containers.get("on").attrs["NetworkSettings"]["Networks"]
network.disconnect(on)
network.connect(on, aliases=["there"])
on.remove(force=True)
network.remove()
client.networks.create("idle")
assert client.networks.prune()["NetworksDeleted"] == ["idle"]

# The engine
usage = client.df()
assert usage["Images"] and usage["LayersSize"] > 0, usage
assert api.prune_builds()["SpaceReclaimed"] == 0
assert "swarm" in refused(503, client.nodes.list)
assert client.plugins.list() == []
kinds = set()
for event in events:
    kinds.add((event["Type"], event["Action"]))
    if event["Type"] == "network" and event["Action"] in ("prune", "destroy"):
        break
events.close()
for wanted in [("container", "create"), ("container", "start"), ("container", "die"), ("volume", "create"), ("network", "create")]:
    assert wanted in kinds, (wanted, kinds)

print(json.dumps(sorted(calls)))
