"""Helm's own SDK against the API that KUBECONFIG names: a chart with a definition, hooks and values through its whole life."""

import os
import pathlib
import sys
import tempfile

import helm_python as helm
from kubernetes import client, config
from kubernetes.client.rest import ApiException

config.load_kube_config()
core, apps, custom = client.CoreV1Api(), client.AppsV1Api(), client.CustomObjectsApi()
SPACE = "harbour"

FILES = {
    "Chart.yaml": "apiVersion: v2\nname: boat\nversion: 0.1.0\nappVersion: '1'\n",
    "values.yaml": "replicas: 1\nimage: nginx:1\ncrew: [ann]\n",
    "crds/oars.yaml": """
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: oars.example.com}
spec:
  group: example.com
  scope: Namespaced
  names: {plural: oars, kind: Oar}
  versions: [{name: v1, served: true, storage: true, schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}}]
""",
    "templates/deployment.yaml": """
apiVersion: apps/v1
kind: Deployment
metadata: {name: {{ .Release.Name }}, labels: {app: boat}}
spec:
  replicas: {{ .Values.replicas }}
  selector: {matchLabels: {app: boat}}
  template:
    metadata: {labels: {app: boat}}
    spec: {containers: [{name: c, image: {{ .Values.image | quote }}}]}
""",
    "templates/config.yaml": """
apiVersion: v1
kind: ConfigMap
metadata: {name: {{ .Release.Name }}-crew}
data: {crew: {{ .Values.crew | join "," | quote }}, minor: {{ .Capabilities.KubeVersion.Minor | quote }}}
---
{{ if .Capabilities.APIVersions.Has "policy/v1" }}
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata: {name: {{ .Release.Name }}}
spec: {minAvailable: 1, selector: {matchLabels: {app: boat}}}
{{ end }}
""",
    "templates/oar.yaml": """
apiVersion: example.com/v1
kind: Oar
metadata: {name: {{ .Release.Name }}}
spec: {length: 3}
""",
    # Hooks of a kind that is there as soon as it is made, so that no node is needed.
    "templates/hooks.yaml": """
{{- range $hook := list "pre-install" "post-install" "pre-upgrade" "post-rollback" "post-delete" }}
---
apiVersion: v1
kind: ConfigMap
metadata:
  name: hook-{{ $hook }}
  annotations: {helm.sh/hook: {{ $hook }}, helm.sh/hook-delete-policy: before-hook-creation}
data: {revision: {{ $.Release.Revision | quote }}}
{{- end }}
""",
}


def there(call, *args):
    try:
        return call(*args)
    except ApiException as error:
        assert error.status == 404, error
        return None


def config_map(name):
    found = there(core.read_namespaced_config_map, name, SPACE)
    return found and found.data


def deployment():
    found = apps.read_namespaced_deployment("b", SPACE)
    return found.spec.replicas, found.spec.template.spec.containers[0].image


with tempfile.TemporaryDirectory() as place:
    chart = pathlib.Path(place, "boat")
    for name, text in FILES.items():
        path = chart / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    cluster = helm.Config(kubeconfig_path=os.environ["KUBECONFIG"], namespace=SPACE)
    cluster.check_reachable()
    assert helm.lint(chart)

    core.create_namespace(client.V1Namespace(metadata=client.V1ObjectMeta(name=SPACE)))
    made = cluster.install(chart, "b", {"replicas": 2}, namespace=SPACE)
    assert made["status"] == "deployed", made
    assert deployment() == (2, "nginx:1")
    assert config_map("b-crew") == {"crew": "ann", "minor": "36"}
    assert config_map("hook-pre-install") == {"revision": "1"} == config_map("hook-post-install")
    assert config_map("hook-pre-upgrade") is None
    assert custom.get_namespaced_custom_object("example.com", "v1", SPACE, "oars", "b")["spec"]["length"] == 3
    assert client.PolicyV1Api().read_namespaced_pod_disruption_budget("b", SPACE).spec.min_available == 1
    try:
        cluster.install(chart, "b", namespace=SPACE)
    except helm.HelmError as error:
        assert "in use" in str(error), error
    else:
        raise AssertionError("a name was taken twice")

    cluster.upgrade(chart, "b", {"replicas": 3, "image": "nginx:2", "crew": ["ann", "bob"]}, namespace=SPACE)
    assert deployment() == (3, "nginx:2")
    assert config_map("b-crew")["crew"] == "ann,bob"
    assert config_map("hook-pre-upgrade") == {"revision": "2"}

    # What somebody else changed since is neither kept nor a reason to fail: the chart says what it says.
    apps.patch_namespaced_deployment("b", SPACE, {"metadata": {"annotations": {"note": "mine"}}})
    cluster.rollback("b", version=1)
    assert deployment() == (2, "nginx:1")
    assert apps.read_namespaced_deployment("b", SPACE).metadata.annotations["note"] == "mine"
    assert config_map("b-crew")["crew"] == "ann"
    assert config_map("hook-post-rollback") is not None

    # A manifest that the API refuses leaves a failed release, and the next one mends it.
    try:
        cluster.upgrade(chart, "b", {"replicas": -1}, namespace=SPACE)
    except helm.HelmError as error:
        assert "must be greater than or equal to 0" in str(error), error
    else:
        raise AssertionError("a wrong manifest was taken")
    cluster.upgrade(chart, "b", {"replicas": 4}, namespace=SPACE)
    assert deployment() == (4, "nginx:1")

    listed = cluster.list(all_namespaces=True)
    assert [(one["name"], one["namespace"]) for one in listed] == [("b", SPACE)], listed
    history = cluster.history("b")
    states = [one["status"] for one in history]
    assert states == ["superseded", "superseded", "superseded", "failed", "deployed"], states
    secrets = core.list_namespaced_secret(SPACE, label_selector="owner=helm").items
    assert {one.type for one in secrets} == {"helm.sh/release.v1"} and len(secrets) == 5

    cluster.uninstall("b")
    assert there(apps.read_namespaced_deployment, "b", SPACE) is None
    assert config_map("b-crew") is None
    assert config_map("hook-post-delete") is not None
    assert cluster.list(all_namespaces=True) == []
    assert core.list_namespaced_secret(SPACE, label_selector="owner=helm").items == []
    cluster.close()

print(f"passed with helm {helm.helm_sdk_version()}", file=sys.stdout)
