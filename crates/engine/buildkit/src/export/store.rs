//! Into the engine's image store, under the names that were asked for; and from there to a registry.

use std::sync::Arc;

use build::{Built, LayerForm, MediaTypes};
use engine::PushRequest;
use tonic::Status;

use super::archive::described;
use super::package::{Annotations, is_annotation, package};
use super::{Response, Results, flag, form, media, names};
use crate::content::Top;
use crate::errors::status_of;
use crate::frontend::credentials;
use crate::kit::Kit;
use crate::progress::Task;
use crate::session::Session;
use crate::solve::Solve;

/// Attributes that are read, or whose wish is met anyway: layers in the store are unpacked already. In which form they are
/// sent counts for a push.
const KNOWN: &[&str] = &[
    "name",
    "push",
    "push-by-digest",
    "name-canonical",
    "unpack",
    "store",
    "oci-mediatypes",
    "compression",
    "compression-level",
    "force-compression",
    super::REWRITE_TIMESTAMP,
    "prefer-image-digest",
    "buildinfo",
    "buildinfo-attrs",
    "context",
    "load",
    "registry.insecure",
];

/// Refuses what cannot be met. The store holds images of one platform each, and nothing that is said of them beside their
/// configuration: that goes to registries and archives.
pub(super) fn check(attrs: &Response, platforms: usize) -> Result<(), Status> {
    if let Some(unknown) = attrs.keys().find(|key| !KNOWN.contains(&key.as_str()) && !is_annotation(key)) {
        return Err(Status::invalid_argument(format!("image exporter: unknown attribute {unknown:?}")));
    }
    let names = names(attrs.get("name").map_or("", String::as_str))?;
    let annotations = Annotations::read(attrs)?;
    form("image", attrs)?;
    media(attrs, MediaTypes::Oci)?;
    if flag(attrs, "registry.insecure")? {
        return Err(Status::unimplemented(
            "image exporter: registry.insecure is not supported: say so in the engine's registries file",
        ));
    }
    if flag(attrs, "push")? {
        if names.is_empty() {
            return Err(Status::invalid_argument("tag is needed when pushing to registry"));
        }
        return Ok(());
    }
    if platforms > 1 {
        return Err(Status::unimplemented(format!(
            "{platforms} platforms: this engine's image store holds images of one platform each: push it, or use --output type=oci,dest=FILE"
        )));
    }
    if !annotations.is_empty() {
        return Err(Status::unimplemented(
            "annotations are not kept in this engine's image store: push it, or use --output type=oci,dest=FILE",
        ));
    }
    Ok(())
}

pub(super) async fn export(
    kit: &Kit,
    solve: &Arc<Solve>,
    session: &Arc<Session>,
    results: &Results,
    attrs: &Response,
) -> Result<Response, Status> {
    let wanted = Wanted {
        names: names(attrs.get("name").map_or("", String::as_str))?,
        push: flag(attrs, "push")?,
        by_digest: flag(attrs, "push-by-digest")?,
        canonical: flag(attrs, "name-canonical")?,
        annotations: Annotations::read(attrs)?,
        form: form("image", attrs)?,
        media: media(attrs, MediaTypes::Oci)?,
        store: !attrs.contains_key("store") || flag(attrs, "store")?,
    };
    let task = Task::begin(&solve.progress, "exporting to image");
    let worked = work(kit, session, results, &wanted, &task).await;
    task.done(&worked.as_ref().map(drop).map_err(|status| status.message().to_owned()));
    worked
}

struct Wanted {
    names: Vec<vocab::Reference>,
    push: bool,
    by_digest: bool,
    /// The name in the answer is to have the digest.
    canonical: bool,
    annotations: Annotations,
    form: LayerForm,
    media: MediaTypes,
    /// It is to stay in the image store.
    store: bool,
}

impl Wanted {
    /// The store's own push sends nothing but the image, as it is.
    fn is_plain(&self) -> bool {
        self.store
            && !self.by_digest
            && self.annotations.is_empty()
            && self.form.is_as_stored()
            && self.media == MediaTypes::Oci
    }
}

async fn work(
    kit: &Kit,
    session: &Session,
    results: &Results,
    wanted: &Wanted,
    task: &Task,
) -> Result<Response, Status> {
    task.part("exporting layers").done();
    let mut response = Response::new();
    // Of several platforms, none is the one that the store would have under the name.
    if let [built] = results.built.as_slice()
        && wanted.store
    {
        let names = if wanted.by_digest { Vec::new() } else { wanted.names.clone() };
        let exported = kit.builder.export(Built::clone(built), names.clone()).await;
        let id = exported.map_err(|error| status_of(&error, None))?;
        task.part(&format!("writing image {id}")).done();
        for name in &names {
            task.part(&format!("naming to {name}")).done();
        }
        response.insert("containerimage.digest".into(), id.to_string());
        response.insert("containerimage.config.digest".into(), id.to_string());
    }
    if wanted.push {
        let attested = results.targets.iter().any(|target| target.asked.attest.any());
        match attested || !wanted.is_plain() || results.built.len() > 1 {
            true => response.extend(push_package(kit, session, results, wanted, task).await?),
            false => {
                for name in &wanted.names {
                    response.extend(push_one(kit, session, name, task).await?);
                }
            }
        }
    }
    if !wanted.names.is_empty() {
        let digest = response.get("containerimage.digest").filter(|_| wanted.canonical);
        let shown = |name: &vocab::Reference| match digest {
            Some(digest) => format!("{}@{digest}", name.repository()),
            None => name.to_string(),
        };
        let names: Vec<String> = wanted.names.iter().map(shown).collect();
        response.insert("image.name".into(), names.join(","));
    }
    Ok(response)
}

/// An image of the store, as it is.
async fn push_one(kit: &Kit, session: &Session, name: &vocab::Reference, task: &Task) -> Result<Response, Status> {
    let part = task.part(&format!("pushing {name} with docker"));
    let credentials = credentials(session, name.domain()).await;
    let request = PushRequest { reference: name.to_string(), all_tags: false, credentials };
    let failed = |error: engine::Error| Status::unknown(format!("failed to push {}: {error}", name.familiar()));
    let mut reports = kit.builder.engine().image_push(request).await.map_err(failed)?;
    let mut response = Response::new();
    while let Some(report) = reports.next().await {
        if let engine::RegistryReport::Pushed { digest, .. } = report.map_err(failed)? {
            response.insert("containerimage.digest".into(), digest.to_string());
        }
    }
    part.done();
    Ok(response)
}

/// Images with what is said of them, or several at once.
async fn push_package(
    kit: &Kit,
    session: &Session,
    results: &Results,
    wanted: &Wanted,
    task: &Task,
) -> Result<Response, Status> {
    let familiar = wanted.names.first().map(vocab::Reference::familiar).unwrap_or_default();
    let package = package(kit, results, &wanted.annotations, (wanted.form, wanted.media), &familiar).await?;
    let (digest, top) = (package.digest(), package.manifests.last());
    for name in &wanted.names {
        let part = task.part(&format!("pushing manifest for {name}@{digest}"));
        let credentials = credentials(session, name.domain()).await;
        let name = if wanted.by_digest { name.with_digest(digest) } else { name.clone() };
        let pushed = kit.builder.push(&package, &name, credentials).await;
        pushed.map_err(|error| status_of(&error, None))?;
        part.done();
    }
    let (media_type, bytes) = top.map_or((String::new(), 0), |(media_type, bytes)| (media_type.clone(), bytes.len()));
    Ok(described(&Top { media_type, digest, bytes: bytes as u64 }, results))
}
