"""The Python client against the API that KUBECONFIG names: what its users call, a controller for a kind of their own, and webhooks."""

import base64
import json
import os
import ssl
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import trustme
from kubernetes import client, config, dynamic, utils, watch
from kubernetes.client.rest import ApiException
from kubernetes.leaderelection import electionconfig, leaderelection
from kubernetes.leaderelection.resourcelock.configmaplock import ConfigMapLock

config.load_kube_config()
core = client.CoreV1Api()
apps = client.AppsV1Api()
custom = client.CustomObjectsApi()
DEADLINE = 30
step = 0


def done(what):
    global step
    step += 1
    print(f"{step} {what}", flush=True)


def eventually(what, holds):
    until = time.monotonic() + DEADLINE
    while True:
        answer = holds()
        if answer:
            return answer
        if time.monotonic() > until:
            raise AssertionError(f"{what}: not within {DEADLINE} s")
        time.sleep(0.02)


def refused(code, part, call, *args, **kwargs):
    try:
        call(*args, **kwargs)
    except ApiException as error:
        assert error.status == code and part in error.body, (error.status, error.body)
        return json.loads(error.body)
    raise AssertionError(f"{call} was allowed")


def config_map(name, data=None, **meta):
    return client.V1ConfigMap(metadata=client.V1ObjectMeta(name=name, **meta), data=data or {})


def basics():
    assert client.VersionApi().get_code().minor == "36"
    groups = {group.name for group in client.ApisApi().get_api_versions().groups}
    assert {"apps", "batch", "rbac.authorization.k8s.io"} <= groups, groups
    assert any(one.name == "pods" for one in client.CoreV1Api().get_api_resources().resources)
    core.create_namespace({"metadata": {"name": "py"}})
    made = core.create_namespaced_config_map("py", config_map("one", {"a": "1"}, labels={"app": "x"}))
    assert made.metadata.uid and made.data == {"a": "1"}
    refused(409, "AlreadyExists", core.create_namespaced_config_map, "py", config_map("one"))
    stale = core.read_namespaced_config_map("one", "py")
    made.data["b"] = "2"
    core.replace_namespaced_config_map("one", "py", made)
    stale.data["c"] = "3"
    refused(409, "the object has been modified", core.replace_namespaced_config_map, "one", "py", stale)
    core.patch_namespaced_config_map("one", "py", {"data": {"a": None, "d": "4"}})
    assert core.read_namespaced_config_map("one", "py").data == {"b": "2", "d": "4"}
    core.patch_namespaced_config_map("one", "py", [{"op": "remove", "path": "/data/d"}])
    assert core.read_namespaced_config_map("one", "py").data == {"b": "2"}
    status = refused(422, "Invalid", core.create_namespaced_config_map, "py", config_map("Not_A_Name"))
    assert status["details"]["causes"][0]["field"] == "metadata.name", status
    for n in range(25):
        core.create_namespaced_config_map("py", config_map(f"many-{n:02}", labels={"many": str(n % 5)}))
    names, token = [], None
    while True:
        page = core.list_namespaced_config_map("py", limit=7, _continue=token, label_selector="many")
        names += [one.metadata.name for one in page.items]
        token = page.metadata._continue
        if not token:
            break
    assert names == [f"many-{n:02}" for n in range(25)], names
    assert len(core.list_config_map_for_all_namespaces(label_selector="many in (1,2)").items) == 10
    only = core.list_namespaced_config_map("py", field_selector="metadata.name=many-03")
    assert [one.metadata.name for one in only.items] == ["many-03"]
    core.delete_collection_namespaced_config_map("py", label_selector="many")
    assert not core.list_namespaced_config_map("py", label_selector="many").items
    dry = core.create_namespaced_config_map("py", config_map("dry"), dry_run="All")
    assert dry.metadata.uid
    refused(404, "NotFound", core.read_namespaced_config_map, "dry", "py")
    secret = core.create_namespaced_secret("py", client.V1Secret(metadata={"name": "s"}, string_data={"k": "v"}))
    assert base64.b64decode(secret.data["k"]) == b"v"
    done("typed objects")


def workloads():
    pod = client.V1PodSpec(containers=[client.V1Container(name="c", image="busybox", ports=[{"containerPort": 80}])])
    template = client.V1PodTemplateSpec(metadata={"labels": {"app": "web"}}, spec=pod)
    spec = client.V1DeploymentSpec(selector={"matchLabels": {"app": "web"}}, template=template)
    made = apps.create_namespaced_deployment("py", client.V1Deployment(metadata={"name": "web"}, spec=spec))
    assert made.spec.replicas == 1 and made.spec.strategy.rolling_update.max_surge == "25%"
    # The server's own controllers write as well: whoever replaces what they have changed meanwhile looks again.
    for _ in range(20):
        scale = apps.read_namespaced_deployment_scale("web", "py")
        scale.spec.replicas = 4
        try:
            apps.replace_namespaced_deployment_scale("web", "py", scale)
            break
        except client.ApiException as conflict:
            assert conflict.status == 409, conflict
    else:
        raise AssertionError("a scale could not be replaced in 20 tries")
    apps.patch_namespaced_deployment_scale("web", "py", {"spec": {"replicas": 5}})
    assert apps.read_namespaced_deployment("web", "py").spec.replicas == 5
    patched = apps.patch_namespaced_deployment_status("web", "py", {"status": {"replicas": 5, "observedGeneration": 3}})
    assert patched.status.replicas == 5
    # By the name of the container, as its strategic merge says.
    image = {"spec": {"template": {"spec": {"containers": [{"name": "c", "image": "other"}]}}}}
    apps.patch_namespaced_deployment("web", "py", image)
    container = apps.read_namespaced_deployment("web", "py").spec.template.spec.containers[0]
    assert container.image == "other" and container.ports[0].container_port == 80
    documents = [
        {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"}, "spec": {"ports": [{"port": 80}], "selector": {"app": "web"}}},
        {"apiVersion": "batch/v1", "kind": "CronJob", "metadata": {"name": "cron"},
         "spec": {"schedule": "*/5 * * * *", "jobTemplate": {"spec": {"template": {"spec": {"restartPolicy": "Never",
          "containers": [{"name": "c", "image": "busybox"}]}}}}}},
    ]
    utils.create_from_yaml(client.ApiClient(), yaml_objects=documents, namespace="py")
    assert core.read_namespaced_service("web", "py").spec.cluster_ip
    assert client.BatchV1Api().read_namespaced_cron_job("cron", "py").spec.concurrency_policy == "Allow"
    client.PolicyV1Api().create_namespaced_pod_disruption_budget(
        "py", {"metadata": {"name": "web"}, "spec": {"minAvailable": "50%", "selector": {"matchLabels": {"app": "web"}}}})
    pod = core.create_namespaced_pod("py", {"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "i"}]}})
    assert pod.spec.service_account_name == "default" and pod.status.qos_class == "BestEffort"
    core.create_namespaced_binding("py", client.V1Binding(metadata={"name": "p"}, target={"kind": "Node", "name": "n"}),
                                   _preload_content=False)
    assert core.read_namespaced_pod("p", "py").spec.node_name == "n"
    core.delete_namespaced_pod("p", "py", grace_period_seconds=0)
    review = client.AuthorizationV1Api().create_self_subject_access_review(
        {"spec": {"resourceAttributes": {"verb": "delete", "resource": "nodes"}}})
    assert review.status.allowed
    token = core.create_namespaced_service_account_token("default", "py", {"spec": {"expirationSeconds": 600}})
    limited = client.Configuration.get_default_copy()
    limited.api_key = {"authorization": f"Bearer {token.status.token}"}
    limited.cert_file = limited.key_file = None
    who = client.AuthenticationV1Api(client.ApiClient(limited)).create_self_subject_review({})
    assert who.status.user_info.username == "system:serviceaccount:py:default", who
    refused(403, "cannot list resource", client.CoreV1Api(client.ApiClient(limited)).list_namespaced_pod, "py")
    done("workloads")


def watches():
    begin = core.list_namespaced_config_map("py").metadata.resource_version
    for n in range(3):
        core.create_namespaced_config_map("py", config_map(f"w{n}"))
    core.delete_namespaced_config_map("w1", "py")
    seen = []
    for event in watch.Watch().stream(core.list_namespaced_config_map, "py", resource_version=begin, timeout_seconds=20):
        seen.append((event["type"], event["object"].metadata.name))
        if len(seen) == 4:
            break
    assert seen == [("ADDED", "w0"), ("ADDED", "w1"), ("ADDED", "w2"), ("DELETED", "w1")], seen
    ended = list(watch.Watch().stream(core.list_namespaced_secret, "py", resource_version=begin, timeout_seconds=1))
    assert not ended, ended
    done("watches")


def dynamically():
    dyn = dynamic.DynamicClient(client.ApiClient())
    maps = dyn.resources.get(api_version="v1", kind="ConfigMap")
    body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "applied", "namespace": "py"}, "data": {"a": "1", "b": "1"}}
    dyn.server_side_apply(maps, body=body, name="applied", namespace="py", field_manager="one")
    other = {**body, "data": {"a": "2"}}
    try:
        dyn.server_side_apply(maps, body=other, name="applied", namespace="py", field_manager="two")
        raise AssertionError("a conflict was not told")
    except dynamic.exceptions.ConflictError as error:
        assert '.data.a' in str(error.body), error.body
    dyn.server_side_apply(maps, body=other, name="applied", namespace="py", field_manager="two", force_conflicts=True)
    dyn.server_side_apply(maps, body={**body, "data": {"a": "2"}}, name="applied", namespace="py", field_manager="one")
    assert dict(maps.get(name="applied", namespace="py").data) == {"a": "2"}
    assert maps.get(namespace="py", label_selector="none").items == []
    done("dynamic client and server-side apply")


FLEET = {
    "apiVersion": "apiextensions.k8s.io/v1",
    "kind": "CustomResourceDefinition",
    "metadata": {"name": "fleets.example.com"},
    "spec": {
        "group": "example.com",
        "names": {"plural": "fleets", "singular": "fleet", "kind": "Fleet", "shortNames": ["fl"]},
        "scope": "Namespaced",
        "versions": [{
            "name": "v1", "served": True, "storage": True,
            "schema": {"openAPIV3Schema": {"type": "object", "required": ["spec"], "properties": {
                "spec": {
                    "type": "object", "required": ["ships"],
                    "x-kubernetes-validations": [
                        {"rule": "self.ships <= self.limit", "messageExpression": "'a fleet has at most ' + string(self.limit) + ' ships'"},
                        {"rule": "self.limit >= oldSelf.limit", "message": "the limit never falls"},
                    ],
                    "properties": {
                        "ships": {"type": "integer", "minimum": 0},
                        "limit": {"type": "integer", "default": 5},
                        "flag": {"type": "string", "pattern": "^[a-z]+$"},
                    },
                },
                "status": {"type": "object", "properties": {"ships": {"type": "integer"}, "selector": {"type": "string"}}},
            }}},
            "subresources": {"status": {}, "scale": {"specReplicasPath": ".spec.ships", "statusReplicasPath": ".status.ships",
                                                     "labelSelectorPath": ".status.selector"}},
            "additionalPrinterColumns": [{"name": "Ships", "type": "integer", "jsonPath": ".status.ships"}],
        }],
    },
}


class Fleets(threading.Thread):
    """A controller: as many config maps as a fleet has ships, and the status says how many there are."""

    where = ("example.com", "v1", "py", "fleets")

    def __init__(self):
        super().__init__(daemon=True)
        self.watch, self.failed = watch.Watch(), None

    def run(self):
        try:
            listed = custom.list_namespaced_custom_object(*self.where)
            for fleet in listed["items"]:
                self.reconcile(fleet)
            begin = listed["metadata"]["resourceVersion"]
            for event in self.watch.stream(custom.list_namespaced_custom_object, *self.where, resource_version=begin):
                if event["type"] in ("ADDED", "MODIFIED"):
                    self.reconcile(event["object"])
        except Exception as error:  # told by the main thread
            self.failed = error

    def reconcile(self, fleet):
        meta = fleet["metadata"]
        if meta.get("deletionTimestamp"):
            return
        selector, wanted = f"fleet={meta['name']}", fleet["spec"]["ships"]
        have = [one.metadata.name for one in core.list_namespaced_config_map("py", label_selector=selector).items]
        for n in range(len(have), wanted):
            owner = {"apiVersion": "example.com/v1", "kind": "Fleet", "name": meta["name"], "uid": meta["uid"], "controller": True}
            core.create_namespaced_config_map("py", config_map(
                None, generate_name=f"{meta['name']}-", labels={"fleet": meta["name"]}, owner_references=[owner]))
        for name in have[wanted:]:
            core.delete_namespaced_config_map(name, "py")
        status = {"status": {"ships": wanted, "selector": selector}}
        custom.patch_namespaced_custom_object_status(*self.where, meta["name"], status)


def controller():
    extensions = client.ApiextensionsV1Api()
    extensions.create_custom_resource_definition(FLEET)
    established = lambda: any(  # noqa: E731
        one.type == "Established" and one.status == "True"
        for one in extensions.read_custom_resource_definition("fleets.example.com").status.conditions or [])
    eventually("the definition is established", established)
    where = Fleets.where
    fleets = Fleets()
    fleets.start()

    def settled(name, ships):
        assert not fleets.failed, fleets.failed
        found = custom.get_namespaced_custom_object(*where, name)
        maps = core.list_namespaced_config_map("py", label_selector=f"fleet={name}").items
        return found.get("status", {}).get("ships") == ships and len(maps) == ships

    fleet = {"apiVersion": "example.com/v1", "kind": "Fleet", "metadata": {"name": "north"}, "spec": {"ships": 3, "sails": 1}}
    # The watch of the controller begins with what was there when it looked.
    made = custom.create_namespaced_custom_object(*where, fleet, _request_timeout=DEADLINE)
    assert made["spec"] == {"ships": 3, "limit": 5}, "defaulted and pruned"
    custom.patch_namespaced_custom_object(*where, "north", {"metadata": {"labels": {"touched": "yes"}}})
    eventually("three ships", lambda: settled("north", 3))
    generation = custom.get_namespaced_custom_object(*where, "north")["metadata"]["generation"]
    assert generation == 1, "neither labels nor the status are a new generation"
    scale = custom.get_namespaced_custom_object_scale(*where, "north")
    assert scale["status"] == {"replicas": 3, "selector": "fleet=north"}, scale
    scale["spec"]["replicas"] = 5
    custom.replace_namespaced_custom_object_scale(*where, "north", scale)
    eventually("five ships", lambda: settled("north", 5))
    custom.patch_namespaced_custom_object_scale(*where, "north", {"spec": {"replicas": 1}})
    eventually("one ship", lambda: settled("north", 1))
    refused(422, "a fleet has at most 5 ships", custom.patch_namespaced_custom_object, *where, "north", {"spec": {"ships": 6}})
    refused(422, "a fleet has at most 5 ships", custom.patch_namespaced_custom_object_scale, *where, "north", {"spec": {"replicas": 6}})
    refused(422, "the limit never falls", custom.patch_namespaced_custom_object, *where, "north", {"spec": {"limit": 4}})
    bad = {**fleet, "metadata": {"name": "bad"}, "spec": {"ships": "many"}}
    refused(422, 'spec.ships in body must be of type integer: \\"string\\"', custom.create_namespaced_custom_object, *where, bad)
    bad["spec"] = {"ships": -1, "flag": "UP"}
    status = refused(422, "should match '^[a-z]+$'", custom.create_namespaced_custom_object, *where, bad)
    fields = sorted(cause["field"] for cause in status["details"]["causes"])
    assert fields == ["spec.flag", "spec.ships"], fields
    custom.delete_namespaced_custom_object(*where, "north")
    eventually("the ships go with their fleet", lambda: not core.list_namespaced_config_map("py", label_selector="fleet=north").items)
    fleets.watch.stop()
    extensions.delete_custom_resource_definition("fleets.example.com")
    eventually("the kind goes with its definition", gone(custom.list_namespaced_custom_object, *where))
    done("a controller for a kind of its own")


def gone(call, *args):
    def check():
        try:
            call(*args)
        except ApiException as error:
            return error.status == 404
    return check


class Hook(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_POST(self):
        request = json.loads(self.rfile.read(int(self.headers["content-length"])))["request"]
        answer = {"uid": request["uid"], "allowed": True}
        if self.path.startswith("/mutate"):
            patch = [{"op": "add", "path": "/metadata/annotations", "value": {"seen-by": request["userInfo"]["username"]}}]
            answer |= {"patchType": "JSONPatch", "patch": base64.b64encode(json.dumps(patch).encode()).decode()}
        elif (request["object"].get("data") or {}).get("forbidden"):
            answer |= {"allowed": False, "status": {"code": 403, "message": "this data is forbidden"}}
        body = json.dumps({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": answer}).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def webhooks():
    authority = trustme.CA()
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(tls)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hook)
    server.socket = tls.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    bundle = base64.b64encode(authority.cert_pem.bytes()).decode()

    def hook(path):
        return {
            "name": f"{path}.example.com", "admissionReviewVersions": ["v1"], "sideEffects": "None",
            "clientConfig": {"url": f"https://127.0.0.1:{server.server_address[1]}/{path}", "caBundle": bundle},
            "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "py"}},
            "rules": [{"operations": ["CREATE", "UPDATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["configmaps"]}],
        }

    registration = client.AdmissionregistrationV1Api()
    registration.create_mutating_webhook_configuration({"metadata": {"name": "m"}, "webhooks": [hook("mutate")]})
    registration.create_validating_webhook_configuration({"metadata": {"name": "v"}, "webhooks": [hook("refuse")]})
    # When a configuration counts is not told; it soon does.
    eventually("the webhook is asked", lambda: core.create_namespaced_config_map(
        "py", config_map(None, generate_name="hooked-")).metadata.annotations)
    made = core.create_namespaced_config_map("py", config_map("hooked", {"fine": "1"}))
    assert made.metadata.annotations == {"seen-by": "kubernetes-admin"}, made.metadata.annotations
    words = 'admission webhook \\"refuse.example.com\\" denied the request: this data is forbidden'
    refused(403, words, core.create_namespaced_config_map, "py", config_map("no", {"forbidden": "1"}))
    refused(403, words, core.patch_namespaced_config_map, "hooked", "py", {"data": {"forbidden": "1"}})
    core.create_namespaced_config_map("default", config_map("elsewhere", {"forbidden": "1"}))
    registration.delete_mutating_webhook_configuration("m")
    registration.delete_validating_webhook_configuration("v")
    server.shutdown()
    done("webhooks")


def leases():
    led = threading.Event()
    lock = ConfigMapLock("lock", "py", "me")
    election = electionconfig.Config(lock, lease_duration=15, renew_deadline=10, retry_period=1,
                                     onstarted_leading=led.set, onstopped_leading=lambda: None)
    threading.Thread(target=leaderelection.LeaderElection(election).run, daemon=True).start()
    assert led.wait(DEADLINE), "nobody leads"
    done("leader election")


basics()
workloads()
watches()
dynamically()
controller()
webhooks()
leases()
core.delete_namespace("py")
eventually("the namespace goes with what it holds", gone(core.read_namespace, "py"))
done("passed")
sys.stdout.flush()
# Threads of watches that wait are nobody's concern.
os._exit(0)
