//! An operator written with kube-rs against an API of its own in the same process: a kind derived from a struct, with a
//! schema, CEL rules, status and scale; a controller that owns config maps; a finalizer; events; webhooks made of kube's types.

mod webhook;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use k8s_openapi::api::core::v1::{ConfigMap, Event as CoreEvent, Namespace, Pod};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Api, DeleteParams, ListParams, ObjectMeta, Patch, PatchParams, PostParams, WatchEvent, WatchParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::core::{DynamicObject, GroupVersionKind};
use kube::runtime::controller::Action;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use kube::runtime::finalizer::{self, finalizer};
use kube::runtime::wait::{await_condition, conditions};
use kube::runtime::{Controller, WatchStreamExt as _, reflector, watcher};
use kube::{Client, CustomResource, Resource as _, ResourceExt as _};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

const PATIENCE: Duration = Duration::from_secs(30);

#[derive(CustomResource, Serialize, Deserialize, Debug, Clone, PartialEq, JsonSchema)]
#[kube(
    group = "example.com",
    version = "v1",
    kind = "Fleet",
    namespaced,
    status = "FleetStatus",
    shortname = "fl",
    scale(
        spec_replicas_path = ".spec.ships",
        status_replicas_path = ".status.ships",
        label_selector_path = ".status.selector"
    ),
    printcolumn(name = "Ships", type_ = "integer", json_path = ".status.ships"),
    validation = Rule::new("self.spec.ships <= self.spec.limit").message("more ships than the limit"),
    validation = Rule::new("self.spec.limit >= oldSelf.spec.limit").message("the limit never falls")
)]
#[serde(rename_all = "camelCase")]
struct FleetSpec {
    #[schemars(range(min = 0))]
    ships: i32,
    #[serde(default = "five")]
    limit: i32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = "^[a-z]+$"))]
    flag: Option<String>,
}

fn five() -> i32 {
    5
}

#[derive(Serialize, Deserialize, Debug, Clone, Default, PartialEq, JsonSchema)]
struct FleetStatus {
    ships: i32,
    selector: String,
}

/// An API for one test: nothing outside this process, gone with it.
struct Cluster {
    server: apiserver::Server,
    client: Client,
}

impl Cluster {
    async fn start() -> Self {
        let server = apiserver::Server::start(apiserver::Config::default()).await.unwrap();
        let kubeconfig = Kubeconfig::from_yaml(server.kubeconfig()).unwrap();
        let config = kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.unwrap();
        Self { server, client: Client::try_from(config).unwrap() }
    }
}

async fn eventually<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let search = async {
        loop {
            match look().await {
                Some(found) => return found,
                None => tokio::time::sleep(Duration::from_millis(10)).await,
            }
        }
    };
    tokio::time::timeout(PATIENCE, search).await.unwrap_or_else(|_| panic!("not within {PATIENCE:?}: {what}"))
}

/// What an API error says, with its code.
fn refusal<T: std::fmt::Debug>(outcome: kube::Result<T>) -> (u16, String) {
    match outcome {
        Err(kube::Error::Api(status)) => (status.code, status.message.clone()),
        other => panic!("not refused by the API: {other:?}"),
    }
}

#[derive(Debug)]
struct Failed;

impl std::fmt::Display for Failed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("failed")
    }
}

impl std::error::Error for Failed {}

impl From<kube::Error> for Failed {
    fn from(error: kube::Error) -> Self {
        eprintln!("{error}");
        Self
    }
}

struct Harbour {
    client: Client,
    recorder: Recorder,
}

/// As many config maps as a fleet has ships, applied server-side, and a status that says so.
async fn sail(fleet: Arc<Fleet>, harbour: &Harbour) -> Result<Action, Failed> {
    let namespace = fleet.namespace().unwrap_or_default();
    let maps: Api<ConfigMap> = Api::namespaced(harbour.client.clone(), &namespace);
    let apply = PatchParams::apply("fleets").force();
    let name = fleet.name_any();
    for n in 0..fleet.spec.ships {
        let map = ConfigMap {
            metadata: ObjectMeta {
                name: Some(format!("{name}-{n}")),
                labels: Some(BTreeMap::from([("fleet".into(), name.clone())])),
                owner_references: fleet.controller_owner_ref(&()).map(|owner| vec![owner]),
                ..ObjectMeta::default()
            },
            data: Some(BTreeMap::from([("ship".into(), n.to_string())])),
            ..ConfigMap::default()
        };
        maps.patch(&format!("{name}-{n}"), &apply, &Patch::Apply(map)).await?;
    }
    for map in maps.list(&ListParams::default().labels(&format!("fleet={name}"))).await? {
        let number = map.name_any().rsplit('-').next().and_then(|n| n.parse::<i32>().ok()).unwrap_or(i32::MAX);
        if number >= fleet.spec.ships {
            maps.delete(&map.name_any(), &DeleteParams::default()).await?;
        }
    }
    let status = FleetStatus { ships: fleet.spec.ships, selector: format!("fleet={name}") };
    if fleet.status.as_ref() != Some(&status) {
        let fleets: Api<Fleet> = Api::namespaced(harbour.client.clone(), &namespace);
        let patch = json!({"apiVersion": "example.com/v1", "kind": "Fleet", "status": status});
        fleets.patch_status(&name, &apply, &Patch::Apply(patch)).await?;
        let event = Event {
            type_: EventType::Normal,
            reason: "Sailed".into(),
            note: Some(format!("{} ships", status.ships)),
            action: "Sail".into(),
            secondary: None,
        };
        harbour.recorder.publish(&event, &fleet.object_ref(&())).await?;
    }
    Ok(Action::await_change())
}

async fn reconcile(fleet: Arc<Fleet>, harbour: Arc<Harbour>) -> Result<Action, finalizer::Error<Failed>> {
    let fleets: Api<Fleet> = Api::namespaced(harbour.client.clone(), &fleet.namespace().unwrap_or_default());
    finalizer(&fleets, "example.com/harbour", fleet, async |event| match event {
        finalizer::Event::Apply(fleet) => sail(fleet, &harbour).await,
        finalizer::Event::Cleanup(_) => Ok(Action::await_change()),
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_controller_for_a_derived_kind_works() {
    let Cluster { server, client } = Cluster::start().await;
    let definitions: Api<CustomResourceDefinition> = Api::all(client.clone());
    use kube::CustomResourceExt as _;
    definitions.patch("fleets.example.com", &PatchParams::apply("test"), &Patch::Apply(Fleet::crd())).await.unwrap();
    let established = await_condition(definitions.clone(), "fleets.example.com", conditions::is_crd_established());
    tokio::time::timeout(PATIENCE, established).await.unwrap().unwrap();

    let fleets: Api<Fleet> = Api::default_namespaced(client.clone());
    let maps: Api<ConfigMap> = Api::default_namespaced(client.clone());
    let (end, ended) = tokio::sync::oneshot::channel::<()>();
    let harbour = Arc::new(Harbour {
        client: client.clone(),
        recorder: Recorder::new(client.clone(), Reporter { controller: "fleets".into(), instance: None }),
    });
    let controller = Controller::new(fleets.clone(), watcher::Config::default())
        .owns(maps.clone(), watcher::Config::default())
        .graceful_shutdown_on(async { drop(ended.await) })
        .run(reconcile, |_, _, _| Action::requeue(Duration::from_millis(100)), harbour)
        .for_each(|_| async {});
    let controller = tokio::spawn(controller);

    let spec = |ships| FleetSpec { ships, limit: 5, flag: None };
    let made = fleets.create(&PostParams::default(), &Fleet::new("north", spec(3))).await.unwrap();
    assert_eq!(made.metadata.generation, Some(1));
    let ships = async |count: usize| {
        let listed = maps.list(&ListParams::default().labels("fleet=north")).await.unwrap();
        let fleet = fleets.get("north").await.unwrap();
        let said = fleet.status.is_some_and(|status| status.ships == count as i32);
        (listed.items.len() == count && said).then_some(())
    };
    eventually("three ships", async || ships(3).await).await;
    // What it owns is put back.
    maps.delete("north-1", &DeleteParams::default()).await.unwrap();
    eventually("the lost ship again", async || ships(3).await).await;
    let events: Api<CoreEvent> = Api::default_namespaced(client.clone());
    eventually("an event", async || {
        let listed = events.list(&ListParams::default().fields("involvedObject.name=north")).await.unwrap();
        listed.items.iter().any(|event| event.reason.as_deref() == Some("Sailed")).then_some(())
    })
    .await;

    // Scale, in both directions; the rules hold for it too.
    let scale = fleets.get_scale("north").await.unwrap();
    assert_eq!(scale.status.unwrap().selector.as_deref(), Some("fleet=north"));
    let to = |ships: i32| Patch::Merge(json!({"spec": {"replicas": ships}}));
    fleets.patch_scale("north", &PatchParams::default(), &to(5)).await.unwrap();
    eventually("five ships", async || ships(5).await).await;
    fleets.patch_scale("north", &PatchParams::default(), &to(1)).await.unwrap();
    eventually("one ship", async || ships(1).await).await;
    let (code, why) = refusal(fleets.patch_scale("north", &PatchParams::default(), &to(6)).await);
    assert!(code == 422 && why.contains("more ships than the limit"), "{code} {why}");

    // Schema and rules, on create and update.
    let (code, why) = refusal(fleets.create(&PostParams::default(), &Fleet::new("big", spec(6))).await);
    assert!(code == 422 && why.contains("Fleet.example.com \"big\" is invalid") && why.contains("more ships"), "{why}");
    let lower = Patch::Merge(json!({"spec": {"limit": 4}}));
    let (code, why) = refusal(fleets.patch("north", &PatchParams::default(), &lower).await);
    assert!(code == 422 && why.contains("the limit never falls"), "{code} {why}");
    let odd = FleetSpec { flag: Some("UP".into()), ..spec(-1) };
    let (code, why) = refusal(fleets.create(&PostParams::default(), &Fleet::new("odd", odd)).await);
    assert!(code == 422 && why.contains("spec.flag in body should match '^[a-z]+$'"), "{code} {why}");
    assert!(why.contains("spec.ships in body should be greater than or equal to 0"), "{why}");

    // Another manager meets a conflict, as the controller applies the status.
    let mine = json!({"apiVersion": "example.com/v1", "kind": "Fleet", "status": {"ships": 9, "selector": "x"}});
    let (code, why) = refusal(fleets.patch_status("north", &PatchParams::apply("other"), &Patch::Apply(&mine)).await);
    assert!(code == 409 && why.contains("conflicts with \"fleets\" with subresource \"status\""), "{code} {why}");

    // Gone with all it owned, after its finalizer.
    let uid = fleets.get("north").await.unwrap().metadata.uid.unwrap();
    fleets.delete("north", &DeleteParams::foreground()).await.unwrap();
    let gone = await_condition(fleets.clone(), "north", conditions::is_deleted(&uid));
    tokio::time::timeout(PATIENCE, gone).await.unwrap().unwrap();
    eventually("no ships", async || {
        maps.list(&ListParams::default().labels("fleet=north")).await.unwrap().items.is_empty().then_some(())
    })
    .await;
    let _ = end.send(());
    tokio::time::timeout(PATIENCE, controller).await.unwrap().unwrap();
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn typed_and_dynamic_objects_are_read_written_and_watched() {
    let Cluster { server, client } = Cluster::start().await;
    assert_eq!(client.apiserver_version().await.unwrap().minor, "36");
    let gvk = GroupVersionKind::gvk("apps", "v1", "Deployment");
    let (resource, capabilities) = kube::discovery::pinned_kind(&client, &gvk).await.unwrap();
    assert!(capabilities.supports_operation("watch") && resource.plural == "deployments");
    assert!(kube::Discovery::new(client.clone()).run_aggregated().await.unwrap().has_group("apps"));
    let deployments: Api<DynamicObject> = Api::default_namespaced_with(client.clone(), &resource);
    let web = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"}, "spec": {
        "selector": {"matchLabels": {"app": "web"}}, "template": {"metadata": {"labels": {"app": "web"}},
            "spec": {"containers": [{"name": "c", "image": "i"}]}}}});
    let web = deployments.patch("web", &PatchParams::apply("me"), &Patch::Apply(&web)).await.unwrap();
    assert_eq!(web.data["spec"]["replicas"], 1);
    assert_eq!(deployments.get_metadata("web").await.unwrap().metadata.uid, web.metadata.uid);

    // A big list: the client asks for it compressed.
    let maps: Api<ConfigMap> = Api::default_namespaced(client.clone());
    let map = |name: String| ConfigMap {
        metadata: ObjectMeta { name: Some(name), ..ObjectMeta::default() },
        data: Some(BTreeMap::from([("k".into(), "v".repeat(2000))])),
        ..ConfigMap::default()
    };
    for n in 0..100 {
        maps.create(&PostParams::default(), &map(format!("m{n:02}"))).await.unwrap();
    }
    let whole = maps.list(&ListParams::default()).await.unwrap();
    assert_eq!(whole.items.iter().filter(|map| map.name_any().starts_with('m')).count(), 100);
    let page = maps.list(&ListParams::default().limit(10)).await.unwrap();
    let rest = ListParams::default().continue_token(&page.metadata.continue_.unwrap());
    assert_eq!(page.items.len() + maps.list(&rest).await.unwrap().items.len(), whole.items.len());

    // A raw watch from the list's revision, and a reflector that begins by streaming what there is.
    let from = whole.metadata.resource_version.unwrap();
    let mut events = maps.watch(&WatchParams::default(), &from).await.unwrap().boxed();
    maps.delete("m07", &DeleteParams::default()).await.unwrap();
    let first = tokio::time::timeout(PATIENCE, events.next()).await.unwrap().unwrap().unwrap();
    assert!(matches!(&first, WatchEvent::Deleted(map) if map.name_any() == "m07"), "{first:?}");
    let (reader, writer) = reflector::store();
    let config = watcher::Config::default().streaming_lists();
    let reflect = watcher(maps.clone(), config).default_backoff().reflect(writer).applied_objects();
    let reflecting = tokio::spawn(reflect.for_each(|_| async {}));
    tokio::time::timeout(PATIENCE, reader.wait_until_ready()).await.unwrap().unwrap();
    assert_eq!(reader.state().len(), whole.items.len() - 1);
    maps.create(&PostParams::default(), &map("late".into())).await.unwrap();
    eventually("the reflector sees it", async || reader.find(|map| map.name_any() == "late")).await;
    reflecting.abort();

    // Subresources of pods, and a namespace that goes.
    let pods: Api<Pod> = Api::default_namespaced(client.clone());
    let pod =
        serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "i",
        "resources": {"requests": {"cpu": "1"}}}]}}))
        .unwrap();
    pods.create(&PostParams::default(), &pod).await.unwrap();
    let resize =
        Patch::Strategic(json!({"spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": "2"}}}]}}));
    let resized = pods.patch_resize("p", &PatchParams::default(), &resize).await.unwrap();
    let container = &resized.spec.unwrap().containers[0];
    assert_eq!(container.resources.as_ref().unwrap().requests.as_ref().unwrap()["cpu"].0, "2");
    let debug = Patch::Strategic(json!({"spec": {"ephemeralContainers": [{"name": "d", "image": "i"}]}}));
    let debugged = pods.patch_ephemeral_containers("p", &PatchParams::default(), &debug).await.unwrap();
    assert_eq!(debugged.spec.unwrap().ephemeral_containers.unwrap()[0].name, "d");
    pods.evict("p", &Default::default()).await.unwrap();
    assert!(pods.get_opt("p").await.unwrap().is_none(), "nobody runs it, so it is gone at once");
    let namespaces: Api<Namespace> = Api::all(client);
    namespaces
        .create(&PostParams::default(), &serde_json::from_value(json!({"metadata": {"name": "n"}})).unwrap())
        .await
        .unwrap();
    let uid = namespaces.get("n").await.unwrap().metadata.uid.unwrap();
    namespaces.delete("n", &DeleteParams::default()).await.unwrap();
    let gone = await_condition(namespaces, "n", conditions::is_deleted(&uid));
    tokio::time::timeout(PATIENCE, gone).await.unwrap().unwrap();
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn webhooks_of_kubes_types_change_and_refuse() {
    let Cluster { server, client } = Cluster::start().await;
    let hook = webhook::start().await;
    let config = |path: &str| {
        json!({"name": format!("{path}.example.com"), "admissionReviewVersions": ["v1"], "sideEffects": "None",
            "clientConfig": {"url": format!("https://127.0.0.1:{}/{path}", hook.port), "caBundle": hook.bundle},
            "rules": [{"operations": ["CREATE", "UPDATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["configmaps"]}]})
    };
    use k8s_openapi::api::admissionregistration::v1 as registration;
    let mutating: registration::MutatingWebhookConfiguration =
        serde_json::from_value(json!({"metadata": {"name": "m"}, "webhooks": [config("mutate")]})).unwrap();
    let validating: registration::ValidatingWebhookConfiguration =
        serde_json::from_value(json!({"metadata": {"name": "v"}, "webhooks": [config("refuse")]})).unwrap();
    let post = PostParams::default();
    Api::all(client.clone()).create(&post, &mutating).await.unwrap();
    Api::all(client.clone()).create(&post, &validating).await.unwrap();
    let maps: Api<ConfigMap> = Api::default_namespaced(client);
    let map = |name: &str, key: &str| -> ConfigMap {
        serde_json::from_value(json!({"metadata": {"name": name}, "data": {key: "1"}})).unwrap()
    };
    let made = maps.create(&post, &map("a", "fine")).await.unwrap();
    assert_eq!(made.annotations()["seen-by"], "kubernetes-admin");
    let words = "admission webhook \"refuse.example.com\" denied the request: this data is forbidden";
    let (_, why) = refusal(maps.create(&post, &map("b", "forbidden")).await);
    assert_eq!(why, words);
    let patch = Patch::Merge(json!({"data": {"forbidden": "1"}}));
    let (_, why) = refusal(maps.patch("a", &PatchParams::default(), &patch).await);
    assert_eq!(why, words);
    server.stop().await;
}
