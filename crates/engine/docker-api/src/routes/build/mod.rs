//! `POST /build`: the classic door. A tar with a Dockerfile comes in, lines of progress go out.

mod own;
mod prune;
mod story;

use std::collections::BTreeMap;
use std::sync::Arc;

use build::plan::{self, Graph, MAIN_CONTEXT, NamedContext, Options};
use build::syntax::RunNetwork;
use build::{BuildError, Builder, Client, Context, Events, Job, NoClient, PackageOptions, Remote, StoreBases};
use http::HeaderValue;
use serde_json::json;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::http::body::{Body, drain, feed};
use crate::http::error::{ApiError, ApiResult};
use crate::http::reply::{self, Reply};
use crate::own_build::{self, Wish};
use crate::router::Call;
use crate::routes::system::append_line;
use crate::wire::image::Progress;
use own::Sink;
pub(crate) use prune::prune;
use story::Story;

/// Bytes of a Dockerfile and of a `.dockerignore`.
const TEXT_BYTES_MAX: u64 = 4 << 20;
/// The build argument that leaves `.git` in a context from a repository.
const KEEP_GIT_DIR: &str = "BUILDKIT_CONTEXT_KEEP_GIT_DIR";

pub(crate) async fn build(call: Call) -> ApiResult<Reply> {
    let asked = match Asked::read(&call) {
        Ok(asked) => asked,
        Err(refusal) => {
            // A client in the middle of its context would see a broken pipe, not the reason.
            drain(call.request.into_body()).await;
            return Err(refusal);
        }
    };
    if call.query.text("version") == Some("2") {
        return Err(ApiError::invalid(
            "POST /build with version=2 needs a BuildKit session: use buildx, or the classic builder (DOCKER_BUILDKIT=0)",
        ));
    }
    let (engine, builder, kit) = (call.engine.clone(), call.builder.clone(), call.buildkit.clone());
    // A client that goes away while its context is fetched drops this future, and ends the fetch.
    let cancel = CancellationToken::new();
    let _guard = cancel.clone().drop_guard();
    let fetched = match &asked.remote {
        None => None,
        Some(remote) => {
            let keep_git_dir = asked.options.args.get(KEEP_GIT_DIR).is_some_and(|v| v.as_deref() == Some("1"));
            Some(builder.fetch_context(remote, keep_git_dir, &NoClient, &cancel).await.map_err(refused)?)
        }
    };
    let content_type = call.request.headers().get(http::header::CONTENT_TYPE);
    let framed = content_type.is_some_and(|value| value.as_bytes() == own_build::MEDIA_TYPE.as_bytes());
    let mut body = feed(call.request.into_body());
    let (asked, prepared) = {
        let (builder, mut asked) = (builder.clone(), asked.clone());
        // A client that goes away while it sends its context ends the body, and with it this thread.
        let preparing = move || {
            let mut brought = match framed {
                true => Some(own::read(&builder, &kit, &mut asked, &mut body)?),
                false => None,
            };
            let context = match fetched {
                Some(fetched) => {
                    if fetched.dockerfile_only {
                        asked.dockerfile = "Dockerfile".into();
                    }
                    fetched.context
                }
                None => match brought.as_mut().and_then(|brought| brought.main.take()) {
                    Some(context) => context,
                    None => {
                        // The same names are likely to be built of much the same files again.
                        let names: Vec<String> = asked.names.iter().map(ToString::to_string).collect();
                        let key = format!("{} {}", names.join(" "), asked.dockerfile);
                        Arc::new(kit.unpack_context(&key, &mut body).map_err(refused)?)
                    }
                },
            };
            let prepared = prepare(context, &engine, &mut asked, brought)?;
            Ok::<_, ApiError>((asked, prepared))
        };
        tokio::task::spawn_blocking(preparing)
            .await
            .map_err(|error| ApiError::internal(format!("the build was cut short: {error}")))??
    };
    let (lines, answer) = mpsc::channel(64);
    let sink = Sink { sender: lines, framed };
    tokio::spawn(run(builder, asked, prepared, sink));
    let media_type = if framed { HeaderValue::from_static(own_build::MEDIA_TYPE) } else { reply::JSON };
    Ok(reply::with_type(http::StatusCode::OK, media_type, Body::Channel(answer)))
}

/// The query of a build.
#[derive(Debug, Clone)]
struct Asked {
    dockerfile: String,
    /// Where the context is, if it is not the body.
    remote: Option<Remote>,
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
        let remote = match query.text("remote").filter(|r| !r.is_empty() && *r != "client-session") {
            None => None,
            Some(text) => match Remote::parse(text).map_err(ApiError::invalid)? {
                None => return Err(ApiError::invalid(format!("remote {text:?} is neither a git nor an http(s) URL"))),
                remote => remote,
            },
        };
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
        resources.cgroup_parent = query.text("cgroupparent").unwrap_or_default().to_owned();
        if let Some(limits) = query.text("ulimits") {
            resources.ulimits = crate::wire::host::parse_ulimits(limits)?;
        }
        if let Some(isolation) = query.text("isolation").filter(|text| !matches!(*text, "" | "default")) {
            return Err(ApiError::invalid(format!("unsupported isolation: {isolation:?}")));
        }
        if query.text("securityopt").is_some_and(|list| !matches!(list, "" | "null" | "[]")) {
            let why = "The daemon on this platform does not support setting security options on build";
            return Err(ApiError::invalid(why));
        }
        if query.flag("squash") {
            return Err(ApiError::invalid("squash is only supported with experimental mode"));
        }
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
            remote,
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
    contexts: BTreeMap<String, Arc<Context>>,
    text: String,
    client: Arc<dyn Client>,
    wish: Wish,
    /// What is answered instead of a build.
    answer: Option<(String, usize)>,
}

/// Blocking.
fn prepare(
    context: Arc<Context>,
    engine: &engine::Engine,
    asked: &mut Asked,
    brought: Option<own::Brought>,
) -> ApiResult<Prepared> {
    let (wish, mut contexts, client): (Wish, _, Arc<dyn Client>) = match brought {
        Some(brought) => (brought.wish, brought.contexts, brought.client),
        None => (Wish::default(), BTreeMap::new(), Arc::new(NoClient)),
    };
    let text = match &wish.dockerfile_text {
        Some(text) => text.clone().into_bytes(),
        None => context
            .read(&asked.dockerfile, TEXT_BYTES_MAX)
            .map_err(refused)?
            .ok_or_else(|| ApiError::internal(format!("Cannot locate specified Dockerfile: {}", asked.dockerfile)))?,
    };
    let text = String::from_utf8(text).map_err(|_| ApiError::invalid("the Dockerfile is not UTF-8 text"))?;
    let patterns = |text: &str| build::Patterns::parse(text).map_err(ApiError::invalid);
    match &wish.ignore_text {
        // The client has left out what was to be left out.
        Some(text) => asked.options.ignore = Some(patterns(text)?),
        None if wish.kept.is_some() => {}
        None => {
            let own = format!("{}.dockerignore", asked.dockerfile);
            let mut ignore = context.read(&own, TEXT_BYTES_MAX).map_err(refused)?;
            if ignore.is_none() {
                ignore = context.read(".dockerignore", TEXT_BYTES_MAX).map_err(refused)?;
            }
            if let Some(ignore) = ignore {
                let patterns = patterns(&String::from_utf8_lossy(&ignore))?;
                context.filter(&patterns).map_err(refused)?;
                asked.options.ignore = Some(patterns);
            }
        }
    }
    let file = build::syntax::parse(&text).map_err(|e| planning(&e.into(), &asked.dockerfile, &text))?;
    let bases = StoreBases::new(engine, asked.credentials.clone(), asked.pull);
    let graph = plan::plan(&file, &asked.options, &image::Platform::host(), &bases)
        .map_err(|e| planning(&e, &asked.dockerfile, &text))?;
    let answer = wish.call.as_deref().map(|call| instead(call, &file, &graph, asked, &text)).transpose()?;
    contexts.insert(MAIN_CONTEXT.to_owned(), context);
    Ok(Prepared { graph: Arc::new(graph), contexts, text, client, wish, answer })
}

/// A mistake that shows before any step runs, with the lines it is in.
fn planning(error: &plan::PlanError, file: &str, text: &str) -> ApiError {
    let place = error.line().map(|line| build::excerpt(file, text, build::syntax::Span { first: line, last: line }));
    match place {
        Some(place) => ApiError::invalid(format!("{error}\n{}", place.trim_end())),
        None => ApiError::invalid(error.to_string()),
    }
}

/// What is told of a file instead of building it, and how many warnings there are.
fn instead(
    call: &str,
    file: &build::syntax::Dockerfile,
    graph: &Graph,
    asked: &Asked,
    text: &str,
) -> ApiResult<(String, usize)> {
    let (name, format) = call.split_once(",format=").unwrap_or((call, "text"));
    let json = match format {
        "text" => false,
        "json" => true,
        other => return Err(ApiError::invalid(format!("format {other:?} is neither text nor json"))),
    };
    let shown = |value: serde_json::Value| format!("{value:#}\n");
    let failed = |e: serde_json::Error| ApiError::internal(e.to_string());
    Ok(match name {
        "check" if json => {
            let document = plan::warnings_json(&graph.warnings, &asked.dockerfile, text);
            (shown(document), graph.warnings.len())
        }
        "check" => (plan::warnings_text(&graph.warnings, &asked.dockerfile, text), graph.warnings.len()),
        "outline" if json => (shown(serde_json::to_value(&graph.outline).map_err(failed)?), 0),
        "outline" => (graph.outline.text(), 0),
        "targets" if json => (shown(serde_json::to_value(plan::Targets::of(file)).map_err(failed)?), 0),
        "targets" => (plan::Targets::of(file).text(), 0),
        other => return Err(ApiError::invalid(format!("call {other:?} is not one of check, outline, targets"))),
    })
}

pub(super) fn refused(error: BuildError) -> ApiError {
    ApiError::of_kind(error.kind(), &error)
}

/// What is said about the image, if somebody asked. Blocking for a moment, on a thread of the runtime that may.
fn attested(
    builder: &Builder,
    asked: &Asked,
    wish: &Wish,
    graph: &Graph,
    built: &build::Built,
    started_at: jiff::Timestamp,
) -> Result<Vec<(String, serde_json::Value)>, BuildError> {
    let mut list = Vec::new();
    if let Some(mode) = wish.provenance {
        let facts = build::BuildFacts {
            dockerfile: &asked.dockerfile,
            options: &asked.options,
            remote: asked.remote.as_ref().map(|remote| match remote {
                Remote::Http(url) => url.clone(),
                Remote::Git(remote) => remote.shown(),
            }),
            started_at,
            finished_at: jiff::Timestamp::now(),
            max: mode == own_build::Provenance::Max,
            version: if wish.slsa_v1 { build::SlsaVersion::V1 } else { build::SlsaVersion::V02 },
        };
        let store = builder.engine().store();
        let digests = |id: &vocab::Digest| {
            store.inspect(&id.to_string()).ok()?.digests.first().and_then(vocab::Reference::digest)
        };
        list.push(tokio::task::block_in_place(|| build::provenance(graph, &facts, &digests)));
    }
    if wish.sbom {
        let name = asked.names.first().map(vocab::Reference::familiar).unwrap_or_default();
        list.push(tokio::task::block_in_place(|| builder.sbom(built, &name))?);
    }
    Ok(list)
}

/// Carries the build out and tells the client. A client that has gone cancels it.
async fn run(builder: Builder, asked: Asked, prepared: Prepared, sink: Sink) {
    let Prepared { wish, .. } = &prepared;
    let wish = wish.clone();
    if let Some((text, warnings)) = prepared.answer {
        let mut out = Vec::new();
        let _ = append_line(&mut out, &Progress::stream(text));
        let _ = append_line(&mut out, &json!({ "aux": { "Warnings": warnings } }));
        sink.lines(out).await;
        return;
    }
    let started_at = jiff::Timestamp::now();
    let cancel = CancellationToken::new();
    let (events, mut heard) = mpsc::channel(256);
    let graph = prepared.graph.clone();
    let job = Job {
        graph: graph.clone(),
        contexts: prepared.contexts,
        client: prepared.client,
        events: Events(events),
        cancel: cancel.clone(),
        host: asked.host.clone(),
    };
    let working = builder.clone();
    let (imports, told) = own::imports(&builder, &asked, &wish, &job.contexts).await;
    let work = tokio::spawn(async move { working.build_with(job, imports).await });
    let mut story = Story::new(&graph, asked.quiet, wish.steps);
    told.iter().for_each(|line| story.line(&format!("{line}\n")));
    for warning in &graph.warnings {
        story.line(&format!("[Warning] {} (line {}): {}\n", warning.rule, warning.line, warning.message));
    }
    loop {
        tokio::select! {
            event = heard.recv() => match event {
                Some(event) => story.hear(event),
                None => break,
            },
            () = sink.sender.closed() => {
                cancel.cancel();
                break;
            }
        }
        if !sink.lines(std::mem::take(&mut story.out)).await {
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
        Ok(built) => match attested(&builder, &asked, &wish, &graph, &built, started_at) {
            Ok(attestations) => {
                let annotations = wish.annotations.clone();
                let options = PackageOptions { annotations, attestations, ..PackageOptions::default() };
                own::hand_out(&builder, &asked, &wish, options, built, &sink).await
            }
            Err(error) => Err(error),
        },
        Err(error) => Err(error),
    };
    match done {
        Ok((id, said)) => {
            let _ = append_line(&mut story.out, &json!({ "aux": { "ID": id.to_string() } }));
            if asked.quiet {
                story.say(&format!("{id}\n"));
            } else {
                story.say(&format!("Successfully built {}\n", &id.hex()[..12]));
                said.iter().for_each(|line| story.say(&format!("{line}\n")));
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
    sink.lines(story.out).await;
}
