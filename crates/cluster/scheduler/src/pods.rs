//! A pod as the rules see it: numbers and lists, read once.

use std::sync::Arc;

use cache::{Key, Kind, View};
use resources::selector::{LabelSelector, Operator, Requirement};
use resources::{Value, meta};

use crate::amounts::{DEFAULT_CPU_MILLIS, DEFAULT_MEMORY_BYTES, Resources, requests};

const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
const PREFERRED: &str = "preferredDuringSchedulingIgnoredDuringExecution";

/// A pod that runs or is to run.
#[derive(Debug, Clone)]
pub struct PodFacts {
    /// The whole pod while it waits. Of one that has a node only the rest is kept: a cluster has many.
    pub pod: Arc<Value>,
    pub revision: String,
    pub terminating: bool,
    /// When it started, or was made.
    pub started: String,
    pub key: Key,
    pub requests: Resources,
    /// CPU and memory as scores count them: a little even where nothing is asked for.
    pub counted: (i64, i64),
    pub priority: i64,
    pub ports: Vec<HostPort>,
    pub claims: Vec<String>,
    pub terms: Terms,
}

/// Protocol, address (empty: all) and port on the node.
pub type HostPort = (String, String, i64);

/// What a pod says about the pods near it.
#[derive(Debug, Clone, Default)]
pub struct Terms {
    pub affinity: Vec<Term>,
    pub anti_affinity: Vec<Term>,
    /// With their weights; those of anti-affinity are negative.
    pub preferred: Vec<(i64, Term)>,
}

impl Terms {
    pub fn is_empty(&self) -> bool {
        self.affinity.is_empty() && self.anti_affinity.is_empty() && self.preferred.is_empty()
    }
}

/// One of them.
#[derive(Debug, Clone)]
pub struct Term {
    pub topology_key: String,
    selector: Option<LabelSelector>,
    namespaces: Vec<String>,
    by_labels: Option<LabelSelector>,
}

impl Term {
    fn new(term: &Value, pod: &Value) -> Self {
        let parsed = |name: &str| {
            let selector = term.get(name).filter(|selector| !selector.is_null())?;
            LabelSelector::from_object(selector).ok()
        };
        let mut selector = parsed("labelSelector");
        if let Some(selector) = &mut selector {
            let label = |key: &str| meta::at(pod, &["metadata", "labels", key]).and_then(Value::as_str);
            for (field, operator) in [("matchLabelKeys", Operator::In), ("mismatchLabelKeys", Operator::NotIn)] {
                for key in meta::list_at(term, &[field]).iter().filter_map(Value::as_str) {
                    // A key that the pod does not have says nothing.
                    let Some(value) = label(key) else { continue };
                    let fresh =
                        Requirement { key: key.to_owned(), operator: operator.clone(), values: vec![value.to_owned()] };
                    // The API writes it into the selector as well.
                    if !selector.requirements.contains(&fresh) {
                        selector.requirements.push(fresh);
                    }
                }
            }
        }
        let by_labels = parsed("namespaceSelector");
        let mut namespaces: Vec<String> =
            meta::list_at(term, &["namespaces"]).iter().filter_map(Value::as_str).map(str::to_owned).collect();
        if namespaces.is_empty() && by_labels.is_none() {
            namespaces.push(meta::namespace(pod).to_owned());
        }
        let topology_key = term["topologyKey"].as_str().unwrap_or_default().to_owned();
        Self { topology_key, selector, namespaces, by_labels }
    }

    /// Whether the term speaks of a pod with these labels in this namespace.
    pub fn selects(&self, namespace: &str, labels: &Value, view: &View) -> bool {
        let here = self.namespaces.iter().any(|name| name == namespace)
            || self.by_labels.as_ref().is_some_and(|selector| {
                selector.is_empty()
                    || view.get(Kind::Namespace, "", namespace).is_some_and(|object| selector.matches_object(object))
            });
        here && self
            .selector
            .as_ref()
            .is_some_and(|selector| selector.matches(&|key: &str| labels.get(key).and_then(Value::as_str)))
    }

    pub fn selects_pod(&self, pod: &PodFacts, view: &View) -> bool {
        self.selects(pod.namespace(), pod.labels(), view)
    }
}

fn terms(pod: &Value) -> Terms {
    let affinity = &pod["spec"]["affinity"];
    if affinity.is_null() {
        return Terms::default();
    }
    let of = |which: &str, when: &str| meta::list_at(affinity, &[which, when]).to_vec();
    let required = |which: &str| of(which, REQUIRED).iter().map(|term| Term::new(term, pod)).collect();
    let mut preferred = Vec::new();
    for (which, sign) in [("podAffinity", 1), ("podAntiAffinity", -1)] {
        for preference in of(which, PREFERRED) {
            let weight = preference["weight"].as_i64().unwrap_or(0);
            preferred.push((sign * weight, Term::new(&preference["podAffinityTerm"], pod)));
        }
    }
    Terms { affinity: required("podAffinity"), anti_affinity: required("podAntiAffinity"), preferred }
}

/// Names of the claims that a pod uses.
pub fn claims(pod: &Value) -> Vec<String> {
    let volumes = meta::list_at(pod, &["spec", "volumes"]).iter();
    volumes
        .filter_map(|volume| match volume.get("ephemeral") {
            Some(ephemeral) if !ephemeral.is_null() => {
                Some(format!("{}-{}", meta::name(pod), volume["name"].as_str().unwrap_or_default()))
            }
            _ => volume["persistentVolumeClaim"]["claimName"].as_str().map(str::to_owned),
        })
        .collect()
}

impl PodFacts {
    pub fn new(pod: Arc<Value>) -> Self {
        let mut ports = Vec::new();
        for list in ["containers", "initContainers"] {
            for port in meta::list_at(&pod, &["spec", list]).iter().flat_map(|c| meta::list_at(c, &["ports"])) {
                if let Some(number) = port["hostPort"].as_i64().filter(|number| *number > 0) {
                    let protocol = port["protocol"].as_str().unwrap_or("TCP").to_owned();
                    let address = port["hostIP"].as_str().filter(|ip| *ip != "0.0.0.0").unwrap_or_default();
                    ports.push((protocol, address.to_owned(), number));
                }
            }
        }
        let requests = requests(&pod);
        let or = |amount: i64, default: i64| if amount > 0 { amount } else { default };
        let started = match meta::str_at(&pod, &["status", "startTime"]) {
            "" => meta::get(&pod, "creationTimestamp"),
            time => time,
        };
        Self {
            key: Key::of(&pod),
            revision: meta::resource_version(&pod).to_owned(),
            terminating: meta::is_terminating(&pod),
            started: started.to_owned(),
            counted: (or(requests.cpu, DEFAULT_CPU_MILLIS), or(requests.memory, DEFAULT_MEMORY_BYTES)),
            requests,
            priority: pod["spec"]["priority"].as_i64().unwrap_or(0),
            ports,
            claims: claims(&pod),
            terms: terms(&pod),
            pod,
        }
    }

    /// What is kept of it once it has a node.
    pub fn placed(self) -> Self {
        Self { pod: Arc::default(), ..self }
    }

    pub fn namespace(&self) -> &str {
        &self.key.namespace
    }

    pub fn labels(&self) -> &Value {
        &self.pod["metadata"]["labels"]
    }

    pub fn spec(&self) -> &Value {
        &self.pod["spec"]
    }
}
