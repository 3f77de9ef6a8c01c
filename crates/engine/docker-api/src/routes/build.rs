//! `POST /build`: the classic door. A tar with a Dockerfile comes in, lines of progress go out.

use std::collections::BTreeMap;
use std::sync::Arc;

use build::plan::{self, Graph, MAIN_CONTEXT, NamedContext, Options};
use build::syntax::RunNetwork;
use build::{BuildError, Builder, Context, Event, Events, Job, NoClient, StoreBases};
use bytes::Bytes;
use serde_json::json;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::system::append_line;
use crate::http::body::{Body, feed};
use crate::http::error::{ApiError, ApiResult};
use crate::http::filters;
use crate::http::reply::{self, Reply};
use crate::router::Call;
use crate::wire::image::Progress;

/// Bytes of a Dockerfile and of a `.dockerignore`.
const TEXT_BYTES_MAX: u64 = 4 << 20;

pub(crate) async fn build(call: Call) -> ApiResult<Reply> {
    let asked = Asked::read(&call)?;
    if call.query.text("version") == Some("2") {
        return Err(ApiError::invalid(
            "POST /build with version=2 needs a BuildKit session: use buildx, or the classic builder (DOCKER_BUILDKIT=0)",
        ));
    }
    let (engine, builder) = (call.engine.clone(), call.builder.clone());
    let mut body = feed(call.request.into_body());
    let prepared = {
        let (builder, asked) = (builder.clone(), asked.clone());
        // A client that goes away while it sends its context ends the body, and with it this thread.
        tokio::task::spawn_blocking(move || prepare(&builder, &engine, &asked, &mut body))
            .await
            .map_err(|error| ApiError::internal(format!("the build was cut short: {error}")))??
    };
    let (lines, answer) = mpsc::channel(64);
    tokio::spawn(run(builder, asked, prepared, lines));
    Ok(reply::with_type(http::StatusCode::OK, reply::JSON, Body::Channel(answer)))
}

/// The query of a build.
#[derive(Debug, Clone)]
struct Asked {
    dockerfile: String,
    names: Vec<vocab::Reference>,
    options: Options,
    pull: bool,
    credentials: BTreeMap<String, engine::Credentials>,
    quiet: bool,
    host: engine::HostConfig,
}

impl Asked {
    fn read(call: &Call) -> ApiResult<Self> {
        let query = &call.query;
        let map = |name: &str| -> ApiResult<BTreeMap<String, Option<String>>> {
            let Some(text) = query.text(name) else { return Ok(BTreeMap::new()) };
            serde_json::from_str(text).map_err(|e| ApiError::invalid(format!("{name} is not a JSON object: {e}")))
        };
        if let Some(remote) = query.text("remote").filter(|r| *r != "client-session") {
            return Err(ApiError::unsupported(format!(
                "build from {remote}: remote contexts are not fetched by this engine; send a directory or a tar"
            )));
        }
        let mut names = Vec::new();
        for name in query.all("t").filter(|name| !name.is_empty()) {
            let reference: vocab::Reference =
                name.parse().map_err(|_| ApiError::invalid(format!("invalid reference format: {name:?}")))?;
            names.push(reference.or_latest());
        }
        let platform = match query.text("platform") {
            None => None,
            Some(text) => Some(image::Platform::parse(text).map_err(|e| ApiError::invalid(e.to_string()))?),
        };
        let mut host = engine::HostConfig::default();
        let network = match query.text("networkmode") {
            Some("none") => RunNetwork::None,
            Some("host") => RunNetwork::Host,
            Some(mode) => {
                if mode != "default" {
                    host.network_mode = mode.to_owned();
                }
                RunNetwork::Default
            }
            None => RunNetwork::Default,
        };
        let resources = &mut host.resources;
        resources.memory_bytes = query.number("memory")?.unwrap_or(0);
        resources.memory_swap_bytes = query.number("memswap")?.unwrap_or(0);
        resources.cpu_shares = query.number("cpushares")?.unwrap_or(0);
        resources.cpu_period_micros = query.number("cpuperiod")?.unwrap_or(0);
        resources.cpu_quota_micros = query.number("cpuquota")?.unwrap_or(0);
        resources.cpuset_cpus = query.text("cpusetcpus").unwrap_or_default().to_owned();
        resources.cpuset_mems = query.text("cpusetmems").unwrap_or_default().to_owned();
        host.shm_size_bytes = query.number("shmsize")?.unwrap_or(0);
        host.extra_hosts = query
            .all("extrahosts")
            .flat_map(|hosts| hosts.split(','))
            .filter(|h| !h.is_empty())
            .map(str::to_owned)
            .collect();
        let options = Options {
            target: query.text("target").map(str::to_owned),
            args: map("buildargs")?,
            labels: map("labels")?.into_iter().map(|(key, value)| (key, value.unwrap_or_default())).collect(),
            platform,
            contexts: BTreeMap::<String, NamedContext>::new(),
            network,
            no_cache: query.flag("nocache"),
            ..Options::default()
        };
        Ok(Self {
            dockerfile: query.text("dockerfile").unwrap_or("Dockerfile").to_owned(),
            names,
            options,
            pull: query.flag("pull"),
            credentials: super::registries::all_credentials(call.request.headers()),
            quiet: query.flag("q"),
            host,
        })
    }
}

/// A build whose text is understood and whose context is there.
struct Prepared {
    graph: Arc<Graph>,
    context: Arc<Context>,
    text: String,
}

/// Blocking.
fn prepare(builder: &Builder, engine: &engine::Engine, asked: &Asked, body: &mut engine::Body) -> ApiResult<Prepared> {
    let context = builder.new_context().map_err(refused)?;
    context.unpack(body).map_err(refused)?;
    let text = context
        .read(&asked.dockerfile, TEXT_BYTES_MAX)
        .map_err(refused)?
        .ok_or_else(|| ApiError::internal(format!("Cannot locate specified Dockerfile: {}", asked.dockerfile)))?;
    let text = String::from_utf8(text).map_err(|_| ApiError::invalid("the Dockerfile is not UTF-8 text"))?;
    let own = format!("{}.dockerignore", asked.dockerfile);
    let mut ignore = context.read(&own, TEXT_BYTES_MAX).map_err(refused)?;
    if ignore.is_none() {
        ignore = context.read(".dockerignore", TEXT_BYTES_MAX).map_err(refused)?;
    }
    if let Some(ignore) = ignore {
        let patterns = build::Patterns::parse(&String::from_utf8_lossy(&ignore)).map_err(ApiError::invalid)?;
        context.filter(&patterns).map_err(refused)?;
    }
    let file = build::syntax::parse(&text).map_err(|e| ApiError::invalid(e.to_string()))?;
    let bases = StoreBases::new(engine, asked.credentials.clone(), asked.pull);
    let graph = plan::plan(&file, &asked.options, &image::Platform::host(), &bases)
        .map_err(|e| ApiError::invalid(e.to_string()))?;
    Ok(Prepared { graph: Arc::new(graph), context: Arc::new(context), text })
}

fn refused(error: BuildError) -> ApiError {
    ApiError::of_kind(error.kind(), &error)
}

/// Carries the build out and tells the client. A client that has gone cancels it.
async fn run(builder: Builder, asked: Asked, prepared: Prepared, lines: mpsc::Sender<Bytes>) {
    let cancel = CancellationToken::new();
    let (events, mut heard) = mpsc::channel(256);
    let graph = prepared.graph.clone();
    let job = Job {
        graph: graph.clone(),
        contexts: BTreeMap::from([(MAIN_CONTEXT.to_owned(), prepared.context)]),
        client: Arc::new(NoClient),
        events: Events(events),
        cancel: cancel.clone(),
        host: asked.host.clone(),
    };
    let working = builder.clone();
    let work = tokio::spawn(async move { working.build(job).await });
    let mut story = Story::new(&graph, asked.quiet);
    for warning in &graph.warnings {
        story.line(&format!("[Warning] {} (line {}): {}\n", warning.rule, warning.line, warning.message));
    }
    loop {
        tokio::select! {
            event = heard.recv() => match event {
                Some(event) => story.hear(event),
                None => break,
            },
            () = lines.closed() => {
                cancel.cancel();
                break;
            }
        }
        if !story.out.is_empty() && lines.send(std::mem::take(&mut story.out).into()).await.is_err() {
            cancel.cancel();
        }
    }
    // Whatever a cancelled build still says.
    while heard.recv().await.is_some() {}
    let built = match work.await {
        Ok(built) => built,
        Err(error) => Err(BuildError::Invalid(format!("the build was cut short: {error}"))),
    };
    let done = match built {
        Ok(built) => builder.export(built, asked.names.clone()).await,
        Err(error) => Err(error),
    };
    match done {
        Ok(id) => {
            let _ = append_line(&mut story.out, &json!({ "aux": { "ID": id.to_string() } }));
            if asked.quiet {
                story.say(&format!("{id}\n"));
            } else {
                story.say(&format!("Successfully built {}\n", &id.hex()[..12]));
                for name in &asked.names {
                    story.say(&format!("Successfully tagged {}\n", name.familiar()));
                }
            }
        }
        Err(error) => {
            let message = match error.root() {
                BuildError::Step { exit_code: Some(code), command, .. } if !command.is_empty() => {
                    format!("The command '{command}' returned a non-zero code: {code}")
                }
                other => other.to_string(),
            };
            let code = match error.root() {
                BuildError::Step { exit_code: Some(code), .. } => *code,
                _ => 0,
            };
            let place = error.span().map(|span| build::excerpt(&asked.dockerfile, &prepared.text, span));
            if let Some(place) = place {
                story.say(&place);
            }
            let mut detail = json!({ "message": message });
            if code != 0 {
                detail["code"] = code.into();
            }
            let _ = append_line(&mut story.out, &json!({ "errorDetail": detail, "error": message }));
        }
    }
    let _ = lines.send(story.out.into()).await;
}

/// Tells steps one after another, as the classic builder did, although some run at once: the first that is not over is
/// told live, later ones when their turn comes.
struct Story {
    names: Vec<String>,
    waiting: Vec<Vec<u8>>,
    done: Vec<bool>,
    current: usize,
    quiet: bool,
    out: Vec<u8>,
}

impl Story {
    fn new(graph: &Graph, quiet: bool) -> Self {
        let names: Vec<String> = graph
            .nodes
            .iter()
            .map(|node| node.name.split_once("] ").map_or(node.name.as_str(), |(_, text)| text).to_owned())
            .collect();
        let count = names.len();
        let mut story = Self {
            names,
            waiting: vec![Vec::new(); count],
            done: vec![false; count],
            current: 0,
            quiet,
            out: Vec::new(),
        };
        story.head();
        story
    }

    /// Something that is told whatever the client wants to hear.
    fn say(&mut self, text: &str) {
        let _ = append_line(&mut self.out, &Progress::stream(text.to_owned()));
    }

    fn line(&mut self, text: &str) {
        if !self.quiet {
            self.say(text);
        }
    }

    fn head(&mut self) {
        let (at, all) = (self.current, self.names.len());
        if at < all {
            let text = format!("Step {}/{all} : {}\n", at + 1, self.names[at]);
            self.line(&text);
        }
    }

    fn hear(&mut self, event: Event) {
        match event {
            Event::Started { .. } => {}
            Event::Cached { node } => self.tell(node, b" ---> Using cache\n"),
            Event::Output { node, bytes, .. } => self.tell(node, &bytes),
            Event::Done { node, .. } => {
                self.done[node] = true;
                while self.current < self.names.len() && self.done[self.current] {
                    self.current += 1;
                    self.head();
                    if self.current < self.names.len() {
                        let waiting = std::mem::take(&mut self.waiting[self.current]);
                        if !waiting.is_empty() {
                            self.line(&String::from_utf8_lossy(&waiting));
                        }
                    }
                }
            }
        }
    }

    fn tell(&mut self, node: usize, bytes: &[u8]) {
        if node == self.current {
            self.line(&String::from_utf8_lossy(bytes));
        } else {
            self.waiting[node].extend_from_slice(bytes);
        }
    }
}

pub(crate) async fn prune(call: Call) -> ApiResult<Reply> {
    let filters = filters::parse(&call.query, &["until", "id", "description", "unused-for", "inuse", "type"])?;
    let all = call.query.flag("all");
    let keep = call.query.number::<u64>("keep-storage")?;
    let mut asked = engine::Filters::default();
    for text in filters.values("until").chain(filters.values("unused-for")) {
        asked.insert("until", text);
    }
    let until = engine::parse_until(&asked, jiff::Timestamp::now())?;
    let removed =
        call.builder.prune(build::PrunePolicy { all, keep_bytes: keep, unused_since: until }).await.map_err(refused)?;
    let bytes: u64 = removed.iter().map(|entry| entry.record.bytes).sum();
    let keys: Vec<&str> = removed.iter().map(|entry| entry.key.as_str()).collect();
    let keys = if keys.is_empty() { None } else { Some(keys) };
    reply::ok(&json!({ "CachesDeleted": keys, "SpaceReclaimed": bytes }))
}
