//! `metrics.k8s.io`: what nodes and pods use. Nothing of it is stored: the nodes are asked for their summaries, and the last
//! answers are kept in a table that controllers of this process read as well.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use client::Nodes as _;
use client::{Amounts, Body, NodeRequest, NodeUsage, PodUsage, Query, User};
use http::{HeaderMap, Method, Response};
use http_body_util::BodyExt as _;
use jiff::Timestamp;
use resources::schema::{Field, Node, Shape, StructDef, StructRef};
use resources::selector::{FieldSelector, LabelSelector};
use resources::{Status, Value, decode, kinds, meta};
use serde_json::json;

use crate::api::{Api, Outcome};
use crate::catalog::{Catalog, Resource};
use crate::objects::Call;
use crate::respond;

pub const GROUP: &str = "metrics.k8s.io";
const VERSION: &str = "v1beta1";
/// How often the nodes are asked while nobody else does.
const EVERY: Duration = Duration::from_secs(15);
/// A reader gets nothing older than this.
const FRESH: Duration = Duration::from_secs(2);
/// How long a node may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);
const SUMMARY_BYTES_MAX: usize = 32 << 20;

/// What is kept between requests.
#[derive(Default)]
pub struct Usage {
    pub table: client::UsageTable,
    /// When the nodes were asked last; held while they are.
    asked: tokio::sync::Mutex<Option<Instant>>,
}

/// Adds the group to what is served.
pub fn add_to(catalog: &mut Catalog) {
    let resource = |plural: &str, kind: &str, namespaced: bool, fields: &[(&str, Shape)]| {
        let mut fields: Vec<Field> = fields
            .iter()
            .map(|(name, shape)| Field { name: (*name).to_owned(), required: false, node: Node::new(shape.clone()) })
            .collect();
        fields.sort_by(|a, b| a.name.cmp(&b.name));
        let gvk = Some(format!("{GROUP}/{VERSION}/{kind}"));
        let def = StructDef { name: String::new(), gvk, fields, ..StructDef::default() };
        Arc::new(Resource {
            group: GROUP.into(),
            version: VERSION.into(),
            plural: plural.into(),
            singular: plural.trim_end_matches('s').into(),
            kind: kind.into(),
            list_kind: format!("{kind}List"),
            namespaced,
            verbs: vec!["get".into(), "list".into()],
            short_names: Vec::new(),
            categories: Vec::new(),
            subresources: Vec::new(),
            node: Node::new(Shape::Struct(StructRef::Inline(Arc::new(def)))),
            prefix: String::new(),
            stored_as: (format!("{GROUP}/{VERSION}"), kind.into()),
            strategy: kinds::strategy(GROUP, plural),
            custom: None,
        })
    };
    let quantities = || Shape::Map(Box::new(Node::new(Shape::Quantity)));
    let common = || vec![("metadata", Shape::Raw), ("timestamp", Shape::Time), ("window", Shape::String)];
    let mut of_node = common();
    of_node.push(("usage", quantities()));
    let mut of_pod = common();
    of_pod.push(("containers", Shape::List(Box::new(Node::new(Shape::Raw)))));
    let resources =
        vec![resource("nodes", "NodeMetrics", false, &of_node), resource("pods", "PodMetrics", true, &of_pod)];
    catalog.add(GROUP, VERSION, resources);
}

/// Asks the nodes from time to time, until the server stops.
pub async fn run(api: Arc<Api>) {
    loop {
        tokio::select! {
            () = api.stopping.cancelled() => return,
            () = tokio::time::sleep(EVERY) => refresh(&api, FRESH).await,
        }
    }
}

/// Asks all nodes, unless somebody has done so within `age`.
async fn refresh(api: &Arc<Api>, age: Duration) {
    let mut asked = api.usage.asked.lock().await;
    if asked.is_some_and(|asked| asked.elapsed() < age) {
        return;
    }
    let Ok(nodes) = api.list_objects(&api.builtin("", "nodes"), "").await else { return };
    let names: Vec<String> = nodes.iter().map(|node| meta::name(node).to_owned()).collect();
    api.usage.table.keep_nodes(&names);
    let mut asking = tokio::task::JoinSet::new();
    for name in names {
        let api = api.clone();
        asking.spawn(async move {
            match tokio::time::timeout(PATIENCE, ask(&api, &name)).await {
                Ok(Some((usage, pods))) => api.usage.table.put(&name, usage, pods),
                Ok(None) => tracing::debug!(node = name, "a node tells no usage"),
                Err(_) => tracing::debug!(node = name, "a node does not tell its usage in time"),
            }
        });
    }
    while asking.join_next().await.is_some() {}
    *asked = Some(Instant::now());
}

type Told = (NodeUsage, Vec<((String, String), PodUsage)>);

async fn ask(api: &Arc<Api>, node: &str) -> Option<Told> {
    let nodes = api.nodes.get()?;
    let request = NodeRequest {
        node: node.to_owned(),
        pod: None,
        subresource: "proxy".into(),
        rest: "stats/summary".into(),
        method: Method::GET,
        query: Query::default(),
        headers: HeaderMap::new(),
        body: bytes::Bytes::new(),
        upgrade: None,
        user: User::component("system:kube-apiserver"),
    };
    let answer = nodes.answer(request).await.ok()?;
    if !answer.status().is_success() {
        return None;
    }
    let body = http_body_util::Limited::new(answer.into_body(), SUMMARY_BYTES_MAX).collect().await.ok()?;
    read_summary(&serde_json::from_slice(&body.to_bytes()).ok()?)
}

/// A kubelet's summary as the table keeps it. Pure.
fn read_summary(summary: &Value) -> Option<Told> {
    let amounts = |of: &Value| -> Option<Amounts> {
        Some(Amounts {
            cpu_nanos: of["cpu"]["usageNanoCores"].as_u64()?,
            memory_bytes: of["memory"]["workingSetBytes"].as_u64()?,
        })
    };
    let time = |of: &Value| of["cpu"]["time"].as_str().and_then(|text| text.parse::<Timestamp>().ok());
    let node = &summary["node"];
    let usage = NodeUsage { at: time(node)?, window: EVERY, amounts: amounts(node)? };
    let mut pods = Vec::new();
    for pod in meta::list_at(summary, &["pods"]) {
        let text = |name: &str| pod["podRef"][name].as_str().unwrap_or_default().to_owned();
        let mut containers = BTreeMap::new();
        let mut at = None;
        for container in meta::list_at(pod, &["containers"]) {
            if let (Some(name), Some(amounts)) = (container["name"].as_str(), amounts(container)) {
                containers.insert(name.to_owned(), amounts);
                at = time(container).or(at);
            }
        }
        if let Some(at) = at {
            let usage = PodUsage { uid: text("uid"), at, window: EVERY, containers };
            pods.push(((text("namespace"), text("name")), usage));
        }
    }
    Some((usage, pods))
}

fn quantities(amounts: Amounts) -> Value {
    json!({"cpu": format!("{}n", amounts.cpu_nanos), "memory": format!("{}Ki", amounts.memory_bytes >> 10)})
}

fn head(kind: &str, of: &Value, at: Timestamp, window: Duration) -> Value {
    let mut metadata = json!({"name": meta::name(of), "creationTimestamp": decode::format_time(client::now(), 0)});
    if !meta::namespace(of).is_empty() {
        metadata["namespace"] = meta::namespace(of).into();
    }
    if let Some(labels) = of["metadata"].get("labels") {
        metadata["labels"] = labels.clone();
    }
    json!({"kind": kind, "apiVersion": format!("{GROUP}/{VERSION}"), "metadata": metadata,
        "timestamp": decode::format_time(at, 0), "window": format!("{}s", window.as_secs())})
}

fn shown(table: &client::UsageTable, plural: &str, of: &Value) -> Option<Value> {
    if plural == "nodes" {
        let usage = table.node(meta::name(of))?;
        let mut out = head("NodeMetrics", of, usage.at, usage.window);
        out["usage"] = quantities(usage.amounts);
        return Some(out);
    }
    let usage = table.pod(meta::namespace(of), meta::name(of)).filter(|usage| usage.uid == meta::uid(of))?;
    let mut out = head("PodMetrics", of, usage.at, usage.window);
    let row = |(name, amounts): (&String, &Amounts)| json!({"name": name, "usage": quantities(*amounts)});
    out["containers"] = usage.containers.iter().map(row).collect();
    Some(out)
}

/// Answers a get or list of the group.
pub async fn answer(call: &Call) -> Outcome<Response<Body>> {
    refresh(&call.api, FRESH).await;
    let (plural, table) = (call.resource.plural.as_str(), &call.api.usage.table);
    let about = call.api.builtin("", plural);
    if call.verb == "get" {
        let found = call.api.get_object(&about, &call.path.namespace, &call.path.name).await?;
        let made = found.and_then(|(object, _)| shown(table, plural, &object));
        let made = made.ok_or_else(|| Status::not_found(GROUP, plural, &call.path.name))?;
        return Ok(respond::value(200, &made, call.wanted.format));
    }
    let labels = LabelSelector::parse(call.query.get("labelSelector"))
        .map_err(|error| Status::bad_request(format!("unable to parse requirement: {error}")))?;
    let fields = FieldSelector::parse(call.query.get("fieldSelector")).map_err(|error| Status::bad_request(error.0))?;
    let text = |object: &Value, field: &str| {
        meta::at(object, &field.split('.').collect::<Vec<_>>()).and_then(Value::as_str).unwrap_or_default().to_owned()
    };
    let objects = call.api.list_objects(&about, &call.path.namespace).await?;
    let wanted =
        objects.iter().filter(|object| labels.matches_object(object) && fields.matches(|field| text(object, field)));
    let items: Vec<Value> = wanted.filter_map(|object| shown(table, plural, object)).collect();
    let list = json!({"kind": call.resource.list_kind, "apiVersion": format!("{GROUP}/{VERSION}"), "metadata": {}, "items": items});
    Ok(respond::value(200, &list, call.wanted.format))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_summary_is_read_and_shown_as_quantities() {
        let figures = |cpu: u64, memory: u64| json!({"cpu": {"time": "2026-01-01T00:00:00Z", "usageNanoCores": cpu}, "memory": {"workingSetBytes": memory}});
        let mut container = figures(1500, 2048);
        container["name"] = "c".into();
        let summary = json!({"node": figures(9, 4096), "pods": [
            {"podRef": {"name": "p", "namespace": "d", "uid": "u"}, "containers": [container, {"name": "begins"}]},
            {"podRef": {"name": "empty", "namespace": "d", "uid": "e"}}]});
        let (node, pods) = read_summary(&summary).unwrap();
        assert_eq!((node.amounts.cpu_nanos, pods.len()), (9, 1));
        let table = client::UsageTable::default();
        table.put("n", node, pods);
        let pod = json!({"metadata": {"name": "p", "namespace": "d", "uid": "u", "labels": {"a": "b"}}});
        let made = shown(&table, "pods", &pod).unwrap();
        assert_eq!(made["containers"], json!([{"name": "c", "usage": {"cpu": "1500n", "memory": "2Ki"}}]));
        assert_eq!(made["metadata"]["labels"]["a"], "b");
        let other = json!({"metadata": {"name": "p", "namespace": "d", "uid": "another"}});
        assert!(shown(&table, "pods", &other).is_none(), "figures of a pod that had this name before");
        assert!(read_summary(&json!({})).is_none());
    }
}
