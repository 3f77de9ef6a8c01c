//! One thing that is built: a graph, carried out once, when somebody first wants what comes out of it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use build::plan::{Files, Graph, Op};
use build::{Built, Event, Events, Job};
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared};
use jiff::Timestamp;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use crate::cache;
use crate::client::SessionClient;
use crate::errors::status_of;
use crate::frontend::{self, Asked, Prepared};
use crate::kit::Kit;
use crate::progress::Progress;
use crate::session::Session;
use crate::wire::control::Vertex;

type Outcome = Result<Arc<Built>, Status>;

pub(crate) struct Target {
    pub(crate) id: String,
    pub(crate) asked: Asked,
    pub(crate) prepared: Prepared,
    pub(crate) created_at: Timestamp,
    imports: Vec<cache::Place>,
    kit: Kit,
    session: Arc<Session>,
    progress: Arc<Progress>,
    cancel: CancellationToken,
    running: Mutex<Option<Shared<BoxFuture<'static, Outcome>>>>,
}

impl Target {
    pub(crate) fn new(
        kit: &Kit,
        session: &Arc<Session>,
        progress: &Arc<Progress>,
        cancel: &CancellationToken,
        asked: Asked,
        prepared: Prepared,
        imports: Vec<cache::Place>,
    ) -> Arc<Self> {
        Arc::new(Self {
            id: crate::ids::new(),
            asked,
            prepared,
            created_at: Timestamp::now(),
            imports,
            kit: kit.clone(),
            session: session.clone(),
            progress: progress.clone(),
            cancel: cancel.clone(),
            running: Mutex::default(),
        })
    }

    /// Whether the build that it belongs to has ended.
    pub(crate) fn is_over(&self) -> bool {
        self.cancel.is_cancelled()
    }

    /// What the image is for.
    pub(crate) fn platform(&self) -> String {
        self.asked.platforms.first().cloned().unwrap_or_else(image::Platform::host).to_string()
    }

    /// What comes out; whoever asks first sets the work going.
    pub(crate) async fn built(self: &Arc<Self>) -> Outcome {
        let shared = {
            let mut running = self.running.lock().unwrap_or_else(|e| e.into_inner());
            running
                .get_or_insert_with(|| {
                    // On a task of its own: whoever asked may go while others wait on.
                    let (this, (told, hear)) = (self.clone(), tokio::sync::oneshot::channel());
                    tokio::spawn(async move {
                        let outcome = this.build().await;
                        let _ = told.send(outcome);
                    });
                    hear.map(|heard| heard.unwrap_or_else(|_| Err(Status::internal("the build was cut short"))))
                        .boxed()
                        .shared()
                })
                .clone()
        };
        shared.await
    }

    async fn build(&self) -> Outcome {
        let place = &self.prepared.place;
        let graph = &self.prepared.graph;
        // A failure stops this graph, not what else the client builds.
        let cancel = self.cancel.child_token();
        let loading = frontend::contexts(&self.kit, &self.session, &self.progress, &self.asked, &self.prepared);
        let contexts = tokio::select! {
            contexts = loading => contexts?,
            () = cancel.cancelled() => return Err(Status::cancelled("context canceled")),
        };
        let opening = cache::open(&self.kit, &self.session, &self.progress, &self.imports);
        let imports = tokio::select! {
            imports = opening => imports,
            () = cancel.cancelled() => return Err(Status::cancelled("context canceled")),
        };
        let (events, mut heard) = mpsc::channel(256);
        let client = SessionClient::new(self.session.clone(), self.kit.builder.engine().config().run.clone());
        let job = Job {
            graph: graph.clone(),
            contexts: contexts.by_name.clone(),
            client: Arc::new(client),
            events: Events(events),
            cancel,
            host: self.asked.host.clone(),
        };
        let mut story = Story::new(&self.progress, &self.id, graph);
        let telling = async {
            while let Some(event) = heard.recv().await {
                story.hear(event);
            }
        };
        let (built, ()) = tokio::join!(self.kit.builder.build_with(job, imports), telling);
        drop(contexts);
        built.map(Arc::new).map_err(|error| status_of(&error, Some(place)))
    }
}

impl std::fmt::Debug for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Target").field("id", &self.id).finish_non_exhaustive()
    }
}

/// A graph's steps as vertices.
struct Story<'p> {
    progress: &'p Progress,
    graph: &'p Graph,
    vertices: Vec<Vertex>,
}

impl<'p> Story<'p> {
    fn new(progress: &'p Progress, target: &str, graph: &'p Graph) -> Self {
        let digests: Vec<String> =
            (0..graph.nodes.len()).map(|node| progress.digest(&format!("{target} {node}"))).collect();
        let vertices: Vec<Vertex> = graph
            .nodes
            .iter()
            .enumerate()
            .map(|(at, node)| {
                let inputs = node.inputs().into_iter().filter_map(|input| match input {
                    Files::Node(node) if !is_nothing(graph, node) => Some(digests[node].clone()),
                    _ => None,
                });
                Vertex {
                    digest: digests[at].clone(),
                    inputs: inputs.collect(),
                    name: match &node.op {
                        // What stands for another build's result is known by the name that it has here.
                        Op::Image { reference, .. } if reference.starts_with("result:") => {
                            node.name.replace(&format!("docker.io/library/{reference}"), &reference[7..])
                        }
                        _ => node.name.clone(),
                    },
                    ..Vertex::default()
                }
            })
            .collect();
        let shown = vertices.iter().enumerate().filter(|(node, _)| !is_nothing(graph, *node));
        progress.vertices(shown.map(|(_, vertex)| vertex.clone()).collect());
        Self { progress, graph, vertices }
    }

    fn hear(&mut self, event: Event) {
        let now = Some(Timestamp::now().into());
        match event {
            Event::Started { node, at } => {
                self.vertices[node].started = Some(at.into());
                self.tell(node);
            }
            Event::Cached { node } => {
                let vertex = &mut self.vertices[node];
                vertex.cached = true;
                vertex.started = vertex.started.or(now);
            }
            Event::Output { node, stderr, bytes, at } => {
                self.progress.output(&self.vertices[node].digest, stderr, bytes, at);
            }
            Event::Done { node, error, at } => {
                let image = matches!(self.graph.nodes[node].op, Op::Image { .. });
                let vertex = &mut self.vertices[node];
                // An image is here by the time that the graph is known.
                vertex.cached |= image && error.is_none();
                vertex.completed = Some(at.into());
                vertex.error = match error.as_deref() {
                    Some("CANCELED") => "context canceled".into(),
                    Some(error) => error.to_owned(),
                    None => String::new(),
                };
                self.tell(node);
            }
        }
    }

    fn tell(&self, node: usize) {
        if is_nothing(self.graph, node) {
            return;
        }
        self.progress.vertices(vec![self.vertices[node].clone()]);
    }
}

/// `FROM scratch` is no step.
fn is_nothing(graph: &Graph, node: usize) -> bool {
    matches!(graph.nodes[node].op, Op::Scratch)
}

/// Targets of one solve, by their ids.
pub(crate) type Targets = BTreeMap<String, Arc<Target>>;
