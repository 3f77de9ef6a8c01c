//! From what is asked to a graph: the Dockerfile and `.dockerignore` are fetched from the client, the text is read and
//! planned. The contexts themselves come later, when something is built of them.

use std::collections::BTreeMap;
use std::sync::Arc;

use build::Context;
use build::plan::{self, Base, CopySource, Files, Graph, MAIN_CONTEXT, NamedContext, Op};
use build::syntax::Span;
use tonic::Status;

use super::bases::SessionBases;
use super::{Asked, Remote};
use crate::client::SessionClient;
use crate::errors::{Place, located, status_of};
use crate::files::{Wanted, fetch, receive, tree::Tree};
use crate::kit::Kit;
use crate::progress::{Progress, Task};
use crate::results::Lent;
use crate::session::Session;
use crate::upload;

/// Bytes of a Dockerfile and of a `.dockerignore`.
const TEXT_BYTES_MAX: u64 = 4 << 20;

/// A build that is understood.
#[derive(Debug)]
pub(crate) struct Prepared {
    pub(crate) graph: Arc<Graph>,
    pub(crate) place: Place,
    /// The vertex that the text came with: warnings belong to it.
    pub(crate) vertex: String,
    /// The stages that the text offers.
    pub(crate) targets: plan::Targets,
    /// Images that stand for layouts at the client, to be held while the build is under way.
    pub(crate) lent: Vec<Lent>,
    /// The context, where it is not a folder of the client.
    context: Option<Arc<Context>>,
    exclude: Vec<String>,
}

/// What a build copies from, held while it runs.
#[derive(Debug, Default)]
pub(crate) struct Contexts {
    pub(crate) by_name: BTreeMap<String, Arc<Context>>,
}

/// Reads and plans what is asked.
pub(crate) async fn prepare(
    kit: &Kit,
    session: &Arc<Session>,
    progress: &Arc<Progress>,
    asked: &Asked,
    results: BTreeMap<String, Base>,
) -> Result<Prepared, Status> {
    let context = match &asked.remote {
        None => None,
        Some(Remote::Upload(path)) => Some(upload_context(kit, session, progress, path).await?),
        Some(Remote::Address(remote)) => Some(fetched(kit, session, progress, asked, remote, None).await?),
    };
    let task = Task::begin(progress, &format!("[internal] load build definition from {}", asked.filename));
    let vertex = task.digest().to_owned();
    let loaded = definition(kit, session, &task, asked, context.as_deref()).await;
    task.done(&loaded.as_ref().map(drop).map_err(|status| status.message().to_owned()));
    let Definition { filename, text, ignore } = loaded?;
    let place = Place { filename, text: text.into() };
    let at_line =
        |line: usize, message: String| located(Status::unknown(message), &place, Span { first: line, last: line });
    let file = build::syntax::parse(&place.text).map_err(|error| at_line(error.line, error.to_string()))?;
    let syntax = asked.syntax.as_deref().or(file.directives.get("syntax"));
    if let Some(name) = syntax.filter(|name| !is_dockerfile_frontend(name) && !vocab::weak::without("frontend")) {
        return Err(Status::unimplemented(format!(
            "syntax {name}: this builder has the Dockerfile frontend built in and runs no others"
        )));
    }
    let ignore = match (ignore, &context) {
        (Some(own), _) => Some(own),
        (None, Some(context)) => read_text(context, ".dockerignore")?,
        (None, None) => dockerignore(kit, session, progress, asked).await?,
    };
    let patterns = build::Patterns::parse(&ignore.unwrap_or_default())
        .map_err(|error| Status::unknown(format!("failed to read dockerignore patterns: {error}")))?;
    if let Some(context) = &context {
        context.filter(&patterns).map_err(|error| status_of(&error, None))?;
    }
    // Results of other builds stand for names as images do, under references that no image can have.
    let mut options = asked.options.clone();
    let mut by_reference = BTreeMap::new();
    for (name, base) in results {
        let reference = format!("result:{name}");
        options.contexts.insert(name, NamedContext::Image(reference.clone()));
        by_reference.insert(reference, base);
    }
    let mut lent = Vec::new();
    for (name, (layout, digest)) in &asked.layouts {
        let task = Task::begin(progress, &format!("[context {name}] OCI load from client"));
        let platform = asked.platforms.first().cloned().unwrap_or_else(image::Platform::host);
        let loaded = super::layouts::load(kit, session, layout, digest, platform).await;
        task.done(&loaded.as_ref().map(drop).map_err(|status| status.message().to_owned()));
        let (id, held) = loaded?;
        options.contexts.insert(name.clone(), NamedContext::Image(id.to_string()));
        lent.push(held);
    }
    let targets = plan::Targets::of(&file);
    let bases = SessionBases::new(kit, session, progress, asked.pull, by_reference);
    let planned = blocking(move || plan::plan(&file, &options, &image::Platform::host(), &bases)).await;
    let graph = planned.map_err(|error| {
        let status = Status::unknown(error.to_string());
        match error.line() {
            Some(line) => located(status, &place, Span { first: line, last: line }),
            None => status,
        }
    })?;
    let (graph, exclude) = (Arc::new(graph), patterns.texts());
    Ok(Prepared { graph, place, vertex, targets, lent, context, exclude })
}

/// `docker/dockerfile:1`, `docker.io/docker/dockerfile-upstream@sha256:...`: what is built in here.
fn is_dockerfile_frontend(name: &str) -> bool {
    let name = name.split_whitespace().next().unwrap_or_default();
    let Ok(reference) = name.parse::<vocab::Reference>() else { return false };
    reference.domain() == "docker.io" && matches!(reference.path(), "docker/dockerfile" | "docker/dockerfile-upstream")
}

struct Definition {
    filename: String,
    text: String,
    ignore: Option<String>,
}

async fn definition(
    kit: &Kit,
    session: &Arc<Session>,
    task: &Task,
    asked: &Asked,
    remote: Option<&Context>,
) -> Result<Definition, Status> {
    if let Some(context) = remote.filter(|_| !asked.dockerfile_local) {
        return read_definition(context, &asked.filename);
    }
    let mut follow = vec![asked.filename.clone(), format!("{}.dockerignore", asked.filename)];
    if let Some(folder) = asked.filename.strip_suffix("Dockerfile").filter(|f| f.is_empty() || f.ends_with('/')) {
        follow.push(format!("{folder}dockerfile"));
    }
    let wanted = Wanted { dir: asked.dockerfile_key.clone(), follow, ..Wanted::default() };
    let context = fetch_small(kit, session, &wanted, task.part("transferring dockerfile:")).await?;
    read_definition(&context, &asked.filename)
}

fn read_definition(context: &Context, filename: &str) -> Result<Definition, Status> {
    let other = filename.strip_suffix("Dockerfile").map(|folder| format!("{folder}dockerfile"));
    let mut found = read_text(context, filename)?;
    if found.is_none()
        && let Some(other) = &other
    {
        found = read_text(context, other)?;
    }
    let text = found.ok_or_else(|| {
        Status::unknown(format!("failed to read dockerfile: open {filename}: no such file or directory"))
    })?;
    let ignore = read_text(context, &format!("{filename}.dockerignore"))?;
    Ok(Definition { filename: filename.to_owned(), text, ignore })
}

fn read_text(context: &Context, path: &str) -> Result<Option<String>, Status> {
    let bytes = context.read(path, TEXT_BYTES_MAX).map_err(|error| status_of(&error, None))?;
    let text = bytes.map(String::from_utf8).transpose();
    text.map_err(|_| Status::invalid_argument(format!("{path} is not UTF-8 text")))
}

async fn dockerignore(
    kit: &Kit,
    session: &Arc<Session>,
    progress: &Arc<Progress>,
    asked: &Asked,
) -> Result<Option<String>, Status> {
    let task = Task::begin(progress, "[internal] load .dockerignore");
    let wanted = Wanted { dir: asked.context_key.clone(), follow: vec![".dockerignore".into()], ..Wanted::default() };
    let loaded = fetch_small(kit, session, &wanted, task.part("transferring context:")).await;
    task.done(&loaded.as_ref().map(drop).map_err(|status| status.message().to_owned()));
    read_text(&loaded?, ".dockerignore")
}

/// A few files that are read once.
async fn fetch_small(
    kit: &Kit,
    session: &Arc<Session>,
    wanted: &Wanted,
    part: crate::progress::Part,
) -> Result<Context, Status> {
    let builder = kit.builder.clone();
    let context = blocking(move || builder.new_context()).await.map_err(|error| status_of(&error, None))?;
    fetch(session, wanted, part, move |wire| {
        receive(context.root(), Tree::default(), wire, || Ok(()))?;
        Ok(context)
    })
    .await
}

/// A tar, or a Dockerfile, that the client sends from its standard input.
async fn upload_context(
    kit: &Kit,
    session: &Arc<Session>,
    progress: &Arc<Progress>,
    path: &str,
) -> Result<Arc<Context>, Status> {
    let task = Task::begin(progress, "[internal] load remote build context");
    let builder = kit.builder.clone();
    let part = task.part("transferring context:");
    let loaded = upload::pull(session, path, part, move |reader| {
        let context = builder.new_context()?;
        upload::unpack(&context, reader)?;
        Ok(Arc::new(context))
    })
    .await;
    task.done(&loaded.as_ref().map(drop).map_err(|status| status.message().to_owned()));
    loaded
}

/// A context at an address.
async fn fetched(
    kit: &Kit,
    session: &Arc<Session>,
    progress: &Arc<Progress>,
    asked: &Asked,
    remote: &build::Remote,
    name: Option<&str>,
) -> Result<Arc<Context>, Status> {
    let title = match (name, remote) {
        (Some(name), _) => format!("[context {name}] load from address"),
        (None, build::Remote::Git(git)) => format!("[internal] load git source {}", git.shown()),
        (None, build::Remote::Http(_)) => "[internal] load remote build context".to_owned(),
    };
    let task = Task::begin(progress, &title);
    let cancel = session.gone.child_token();
    let _ends = cancel.clone().drop_guard();
    let client = SessionClient::new(session.clone(), kit.builder.engine().config().run.clone());
    let loaded = kit.builder.fetch_context(remote, asked.keep_git_dir, &client, &cancel).await;
    let loaded = loaded.map(|fetched| fetched.context).map_err(|error| status_of(&error, None));
    task.done(&loaded.as_ref().map(drop).map_err(|status| status.message().to_owned()));
    loaded
}

/// Brings everything that the graph copies from, at once.
pub(crate) async fn contexts(
    kit: &Kit,
    session: &Arc<Session>,
    progress: &Arc<Progress>,
    asked: &Asked,
    prepared: &Prepared,
) -> Result<Contexts, Status> {
    let mut contexts = Contexts::default();
    let mut loads = Vec::new();
    for name in prepared.graph.contexts() {
        if name == MAIN_CONTEXT
            && let Some(context) = &prepared.context
        {
            let context = sub_folder(context, &asked.context_subdir)?;
            contexts.by_name.insert(name, context);
            continue;
        }
        if let Some(remote) = asked.named_remotes.get(&name) {
            let context = fetched(kit, session, progress, asked, remote, Some(&name)).await?;
            contexts.by_name.insert(name, context);
            continue;
        }
        let main = name == MAIN_CONTEXT;
        let wanted = Wanted {
            dir: if main { asked.context_key.clone() } else { name.clone() },
            exclude: if main { prepared.exclude.clone() } else { Vec::new() },
            follow: paths_used(&prepared.graph, &name),
        };
        let title = if main {
            "[internal] load build context".to_owned()
        } else {
            format!("[context {name}] load from client")
        };
        loads.push(async move {
            let task = Task::begin(progress, &title);
            let folder = kit.folders.take(&format!("{name}:{}", session.shared_key), "local source for context");
            let part = task.part("transferring context:");
            let loaded = fetch(session, &wanted, part, move |wire| {
                folder.update(wire)?;
                Ok(folder)
            })
            .await;
            task.done(&loaded.as_ref().map(drop).map_err(|status| status.message().to_owned()));
            let context = Arc::new(loaded?).context().map_err(|error| status_of(&error, None))?;
            Ok::<_, Status>((name, Arc::new(context)))
        });
    }
    contexts.by_name.extend(futures_util::future::try_join_all(loads).await?);
    Ok(contexts)
}

fn sub_folder(context: &Arc<Context>, subdir: &str) -> Result<Arc<Context>, Status> {
    if subdir.is_empty() {
        return Ok(context.clone());
    }
    Err(Status::unimplemented(format!("contextsubdir {subdir}: only a whole remote context can be built")))
}

/// What the graph takes of a context, so that nothing else is transferred; empty: possibly anything.
fn paths_used(graph: &Graph, context: &str) -> Vec<String> {
    let mut paths = Vec::new();
    let wanted = Files::Context(context.to_owned());
    for node in &graph.nodes {
        match &node.op {
            Op::Copy(copy) if copy.from.as_ref() == Some(&wanted) => {
                for source in &copy.sources {
                    if let CopySource::Path(path) = source {
                        paths.push(path.clone());
                    }
                }
            }
            Op::Run(run) => {
                let used = run.mounts.iter().filter(|mount| mount.from.as_ref() == Some(&wanted));
                paths.extend(used.map(|mount| mount.source.clone()));
            }
            _ => {}
        }
    }
    let mut clean: Vec<String> = Vec::new();
    for path in paths {
        let parts: Vec<&str> = path.split('/').filter(|part| !matches!(*part, "" | ".")).collect();
        if parts.is_empty() || parts.contains(&"..") {
            return Vec::new();
        }
        clean.push(parts.join("/"));
    }
    clean.sort();
    clean.dedup();
    clean
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}
