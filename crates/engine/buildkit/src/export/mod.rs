//! What a finished build becomes.
//!
//! * `store` — the engine's image store, and registries
//! * `archive` — an OCI or Docker archive, or a layout, at the client
//! * `client` — bytes and files to the client
//! * `package` — images as blobs and manifests, with annotations and attestations

mod archive;
mod client;
mod package;
mod store;

use std::collections::HashMap;
use std::sync::Arc;

use build::{Built, LayerForm, MediaTypes};
use tonic::Status;

use crate::cache;
use crate::errors::status_of;
use crate::kit::Kit;
use crate::progress::Task;
use crate::session::Session;
use crate::solve::{Outcome, Solve};
use crate::target::Target;
use crate::view::View;
use crate::wire::control::{Exporter, SolveRequest};

const REWRITE_TIMESTAMP: &str = "rewrite-timestamp";

/// Answers for the client, by name.
pub(crate) type Response = HashMap<String, String>;

/// What is exported: one image, or one for each platform.
pub(crate) struct Results {
    pub(crate) targets: Vec<Arc<Target>>,
    pub(crate) built: Vec<Arc<Built>>,
}

impl Results {
    /// The only one there is.
    fn one(&self, exporter: &str) -> Result<&Arc<Built>, Status> {
        match self.built.as_slice() {
            [one] => Ok(one),
            several => Err(Status::unimplemented(format!(
                "{exporter} exporter: {} platforms at once are not supported, only by push and by type=oci",
                several.len()
            ))),
        }
    }
}

pub(crate) fn exporters(request: &SolveRequest) -> Vec<Exporter> {
    let mut exporters = request.exporters.clone();
    if exporters.is_empty() && !request.exporter.is_empty() {
        exporters.push(Exporter { kind: request.exporter.clone(), attrs: request.exporter_attrs.clone() });
    }
    exporters
}

/// Refuses what cannot be met before anything is built for it.
pub(crate) fn check(request: &SolveRequest, platforms: usize) -> Result<(), Status> {
    for exporter in exporters(request) {
        match exporter.kind.as_str() {
            "moby" | "image" => store::check(&exporter.attrs, platforms)?,
            "oci" | "docker" => archive::check(&exporter, platforms)?,
            "local" | "tar" => {
                known(&exporter, &["dest", "platform-split", "attestation-prefix"])?;
                if platforms > 1 {
                    return Err(Status::unimplemented(format!(
                        "{} exporter: {platforms} platforms at once are not supported, only by push and by type=oci",
                        exporter.kind
                    )));
                }
            }
            other => return Err(Status::not_found(format!("exporter {other:?} could not be found"))),
        }
    }
    Ok(())
}

/// Whether an exporter is to have files with `SOURCE_DATE_EPOCH`'s times alone. Layers are made with them, so that one that
/// asks decides for all.
pub(crate) fn rewrites_timestamps(request: &SolveRequest) -> Result<bool, Status> {
    for exporter in exporters(request) {
        if flag(&exporter.attrs, REWRITE_TIMESTAMP)? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Builds what was not built yet, and hands it to every exporter.
pub(crate) async fn export(
    kit: &Kit,
    solve: &Arc<Solve>,
    session: &Arc<Session>,
    outcome: Outcome,
) -> Result<Response, Status> {
    let mut response = Response::new();
    let targets = outcome.targets;
    if targets.is_empty() {
        return Ok(response);
    }
    let inline = targets.iter().any(|target| target.asked.inline_cache());
    let caches = cache::exports(solve.request.cache.as_ref(), inline)?;
    let mut built = futures_util::future::try_join_all(targets.iter().map(|target| target.built())).await?;
    if caches.iter().any(|cache| cache.place == cache::Place::Inline) {
        let task = Task::begin(&solve.progress, "preparing layers for inline cache");
        let with = async {
            let mut all = Vec::new();
            for one in &built {
                let (builder, one) = (kit.builder.clone(), one.clone());
                let work = tokio::task::spawn_blocking(move || builder.with_inline_cache(&one)).await;
                let work = work.map_err(|error| Status::internal(error.to_string()))?;
                all.push(Arc::new(work.map_err(|error| status_of(&error, None))?));
            }
            Ok::<_, Status>(all)
        }
        .await;
        task.done(&with.as_ref().map(drop).map_err(|status| status.message().to_owned()));
        built = with?;
    }
    let results = Results { targets, built };
    for (number, exporter) in exporters(&solve.request).iter().enumerate() {
        let place = client::Place { session, number };
        let told = match exporter.kind.as_str() {
            "moby" | "image" => store::export(kit, solve, session, &results, &exporter.attrs).await?,
            "oci" | "docker" => archive::export(kit, solve, &place, &results, exporter).await?,
            "local" => {
                let built = results.one("local")?;
                let task = Task::begin(&solve.progress, &titled("exporting to client directory", number));
                let sent = client::folder(kit, &place, built, &task).await;
                task.done(&sent.as_ref().map(drop).map_err(|status| status.message().to_owned()));
                sent?
            }
            "tar" => {
                let task = Task::begin(&solve.progress, &titled("exporting to client tarball", number));
                let (kit, built) = (kit.clone(), results.one("tar")?.clone());
                let sent = client::file(&place, "sending tarball", &task, move |out| {
                    let view = View::open(&kit, &built)?;
                    let packed = image::archive::pack(view.root(), std::path::Path::new("/"), out);
                    packed.map_err(|error| Status::unknown(error.to_string()))
                })
                .await;
                task.done(&sent.as_ref().map(drop).map_err(|status| status.message().to_owned()));
                sent?;
                Response::new()
            }
            other => return Err(Status::not_found(format!("exporter {other:?} could not be found"))),
        };
        response.extend(told);
    }
    response.extend(cache::export(kit, session, &solve.progress, &caches, &results.built).await?);
    Ok(response)
}

/// Vertices have names of their own, also where two exporters do the same.
fn titled(name: &str, number: usize) -> String {
    if number == 0 { name.to_owned() } else { format!("{name} ({})", number + 1) }
}

/// An attribute that nobody reads would be a wish that is silently not met.
fn known(exporter: &Exporter, known: &[&str]) -> Result<(), Status> {
    match exporter.attrs.keys().find(|key| !known.contains(&key.as_str())) {
        Some(unknown) => {
            Err(Status::invalid_argument(format!("{} exporter: unknown attribute {unknown:?}", exporter.kind)))
        }
        None => Ok(()),
    }
}

pub(crate) fn names(list: &str) -> Result<Vec<vocab::Reference>, Status> {
    let mut names = Vec::new();
    for name in list.split(',').map(str::trim).filter(|name| !name.is_empty()) {
        let reference: vocab::Reference =
            name.parse().map_err(|_| Status::invalid_argument(format!("invalid reference format: {name:?}")))?;
        names.push(reference.or_latest());
    }
    Ok(names)
}

/// In which form layers are to leave; `of` is who asks, for the error.
pub(crate) fn form(of: &str, attrs: &Response) -> Result<LayerForm, Status> {
    let word = |name: &str| attrs.get(name).map(String::as_str);
    let parsed = LayerForm::parse(word("compression"), word("compression-level"), flag(attrs, "force-compression")?);
    parsed.map_err(|error| Status::invalid_argument(format!("{of} exporter: {error}")))
}

/// By which names an image's parts are to go; `usual` where nothing is said.
fn media(attrs: &Response, usual: MediaTypes) -> Result<MediaTypes, Status> {
    match attrs.contains_key("oci-mediatypes") {
        true if flag(attrs, "oci-mediatypes")? => Ok(MediaTypes::Oci),
        true => Ok(MediaTypes::Docker),
        false => Ok(usual),
    }
}

pub(crate) fn flag(attrs: &Response, name: &str) -> Result<bool, Status> {
    match attrs.get(name).map(String::as_str) {
        None | Some("false" | "0" | "f" | "F" | "FALSE" | "False") => Ok(false),
        Some("" | "true" | "1" | "t" | "T" | "TRUE" | "True") => Ok(true),
        Some(other) => Err(Status::invalid_argument(format!("non-bool value for {name}: {other}"))),
    }
}
