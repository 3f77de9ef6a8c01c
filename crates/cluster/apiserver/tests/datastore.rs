//! The API on a real etcd, from Debian's `etcd-server`, with the stock kubectl. Skipped aloud where there is none.

#[path = "support/cluster.rs"]
mod cluster;
#[path = "../../store/tests/support/etcd_server.rs"]
mod etcd_server;

use std::process::Stdio;

use cluster::Cluster;
use etcd_server::Server as Etcd;

const DEPLOYMENT: &str = "
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, labels: {app: web}}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec: {containers: [{name: c, image: nginx}]}
";

const DEFINITION: &str = "
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: boats.example.com}
spec:
  group: example.com
  scope: Namespaced
  names: {plural: boats, kind: Boat}
  versions:
  - {name: v1, served: true, storage: true, schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}}
";

#[test]
fn a_real_etcd_serves_as_well() {
    let Some(datastore) = Etcd::start() else { return };
    let options = apiserver::EtcdOptions::new([&datastore.client]);
    let Some(mut cluster) = Cluster::start_on(true, Some(options)) else { return };
    cluster.ok_with("apply -f -", DEPLOYMENT);
    cluster.ok("scale deploy/web --replicas=4");
    cluster.ok("create ns one");
    cluster.ok("-n one create cm a --from-literal=x=y");
    cluster.ok_with("apply -f -", DEFINITION);
    cluster.ok("wait --for=condition=Established crd/boats.example.com --timeout=20s");
    cluster.ok_with("create -f -", "apiVersion: example.com/v1\nkind: Boat\nmetadata: {name: b}\nspec: {crew: 2}");
    cluster.restart();
    assert_eq!(cluster.field("deploy/web", ".spec.replicas"), "4");
    assert_eq!(cluster.field("boat/b", ".spec.crew"), "2");
    cluster.ok("create sa robot");
    cluster.ok("create rolebinding rb --clusterrole=view --serviceaccount=default:robot");
    cluster.eventually("auth can-i list pods --as=system:serviceaccount:default:robot", "yes");
    cluster.ok("delete ns one");
    cluster.fails("get ns one", "", "not found");
    cluster.ok("delete deploy web --cascade=foreground");
}

/// A kubectl that has been answered 503 with the advice to ask again.
fn waiting_kubectl(cluster: &Cluster, words: &[&str]) -> std::process::Child {
    use std::io::BufRead as _;
    let mut command = cluster.command(words);
    let mut child = command.arg("-v=8").stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let mut said = Vec::new();
    let mut lines = std::io::BufReader::new(child.stderr.take().unwrap()).lines();
    let mut until = |wanted: &str| {
        let found = lines.by_ref().map_while(Result::ok).any(|line| {
            said.push(line);
            said[said.len() - 1].contains(wanted)
        });
        assert!(found, "kubectl never says {wanted:?}: {}", said.join("\n"));
    };
    until("503 Service Unavailable");
    until("Retry-After: 1");
    // It would stop at the first line that nobody reads.
    std::thread::spawn(move || lines.for_each(drop));
    child
}

/// While the datastore is away every request says so, and that it is worth asking again; when it is back, everything that the API keeps going goes on: quotas
/// are counted, definitions take effect, claims are released, namespaces end, dependents follow their owners.
#[test]
fn the_api_goes_on_after_its_datastore_was_away() {
    let Some(mut datastore) = Etcd::start() else { return };
    let options = apiserver::EtcdOptions {
        timeout: std::time::Duration::from_millis(500),
        ..apiserver::EtcdOptions::new([&datastore.client])
    };
    let Some(cluster) = Cluster::start_on(true, Some(options)) else { return };
    cluster.ok("create quota q --hard=configmaps=30");
    cluster.eventually("get quota q -o jsonpath={.status.used.configmaps}", "1");
    for round in 0..3 {
        // What is counted, followed and looked at wakes up now, and finds nobody.
        cluster.ok(&format!("create configmap before-{round}"));
        cluster.ok(&format!("create clusterrole r{round} --verb=get --resource=pods"));
        cluster.ok(&format!("create namespace n{round}"));
        datastore.kill();
        let waiting = waiting_kubectl(&cluster, &["create", "configmap", &format!("patient-{round}")]);
        let (good, said) = cluster.try_with(&["get", "--raw", "/readyz"], "");
        assert!(!good, "it says that it is not ready: {said}");
        datastore.restart();
        assert!(waiting.wait_with_output().unwrap().status.success(), "kubectl waits until the datastore is back");
        cluster.eventually("get --raw /readyz", "ok");
    }
    cluster.ok("create configmap after");
    cluster.eventually("get quota q -o jsonpath={.status.used.configmaps}", "8");
    cluster.ok("create rolebinding late --clusterrole=view --serviceaccount=default:robot");
    cluster.eventually("auth can-i list pods --as=system:serviceaccount:default:robot", "yes");
    cluster.ok_with("apply -f -", DEFINITION);
    cluster.ok("wait --for=condition=Established crd/boats.example.com --timeout=20s");
    cluster.ok_with("create -f -", "apiVersion: v1\nkind: PersistentVolumeClaim\nmetadata: {name: c}\nspec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}");
    cluster.ok("delete pvc c --timeout=20s");
    cluster.ok("delete namespace n0 n1 n2 --timeout=20s");
    cluster.ok_with("create -f -", DEPLOYMENT);
    let uid = cluster.field("deploy/web", ".metadata.uid");
    let owner = format!("{{apiVersion: apps/v1, kind: Deployment, name: web, uid: {uid}}}");
    cluster.ok_with(
        "create -f -",
        &format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: child, ownerReferences: [{owner}]}}\n"),
    );
    cluster.ok("delete deploy web");
    cluster.eventually("get cm child", "not found");
}

/// Who asks for history that the datastore has forgotten is told so, in a list and in a watch, and can begin anew.
#[test]
fn forgotten_history_is_410_and_can_be_begun_anew() {
    let Some(datastore) = Etcd::start() else { return };
    let options = apiserver::EtcdOptions::new([&datastore.client]);
    let Some(cluster) = Cluster::start_on(true, Some(options.clone())) else { return };
    cluster.ok("create configmap a");
    let old = cluster.field("cm/a", ".metadata.resourceVersion");
    for n in 0..5 {
        cluster.ok(&format!("create configmap b{n}"));
    }
    let maps = "/api/v1/namespaces/default/configmaps";
    let watch = |version: &str| format!("get --raw {maps}?watch=1&timeoutSeconds=1&resourceVersion={version}");
    assert_eq!(cluster.ok(&watch(&old)).lines().count(), 5);
    cluster.runtime.block_on(async {
        use store::Store as _;
        let etcd = store::Etcd::connect(options).await.unwrap();
        etcd.compact(etcd.revision().await.unwrap()).await.unwrap();
    });
    let said = cluster.ok(&watch(&old));
    assert!(
        said.contains("\"type\":\"ERROR\"")
            && said.contains("\"code\":410")
            && said.contains("too old resource version"),
        "{said}"
    );
    let exact = format!("get --raw {maps}?resourceVersion={old}&resourceVersionMatch=Exact");
    cluster.fails(&exact, "", "The resourceVersion for the provided list is too old.");
    let list = cluster.ok(&format!("get --raw {maps}"));
    let list: serde_json::Value = serde_json::from_str(&list).unwrap();
    let now = list["metadata"]["resourceVersion"].as_str().unwrap().to_owned();
    cluster.ok("create configmap late");
    let said = cluster.ok(&watch(&now));
    assert!(said.contains("\"late\"") && said.lines().count() == 1, "{said}");
}
