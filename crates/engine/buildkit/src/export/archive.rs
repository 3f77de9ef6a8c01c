//! `type=oci` and `type=docker`: an archive that the client writes, or with `tar=false` the files of a layout.

use std::sync::Arc;

use build::MediaTypes;
use tonic::Status;

use super::client::{self, Place};
use super::package::{Annotations, is_annotation, package};
use super::{Response, Results, flag, form, media, names, titled};
use crate::cache::encoded;
use crate::content::{ContentStore, Top};
use crate::errors::status_of;
use crate::kit::Kit;
use crate::progress::Task;
use crate::solve::Solve;
use crate::wire::control::Exporter;

const KNOWN: &[&str] = &[
    "name",
    "dest",
    "tar",
    "oci-mediatypes",
    "compression",
    "compression-level",
    "force-compression",
    super::REWRITE_TIMESTAMP,
    "buildinfo",
    "buildinfo-attrs",
    "context",
];

/// Refuses what cannot be met.
pub(super) fn check(exporter: &Exporter, platforms: usize) -> Result<(), Status> {
    let attrs = &exporter.attrs;
    if let Some(unknown) = attrs.keys().find(|key| !KNOWN.contains(&key.as_str()) && !is_annotation(key)) {
        return Err(Status::invalid_argument(format!("{} exporter: unknown attribute {unknown:?}", exporter.kind)));
    }
    form(&exporter.kind, attrs)?;
    media(attrs, usual(exporter))?;
    names(attrs.get("name").map_or("", String::as_str))?;
    Annotations::read(attrs)?;
    if exporter.kind == "docker" && platforms > 1 {
        return Err(Status::unimplemented("docker exporter does not currently support exporting manifest lists"));
    }
    Ok(())
}

/// The names in use where nothing is said.
fn usual(exporter: &Exporter) -> MediaTypes {
    if exporter.kind == "docker" { MediaTypes::Docker } else { MediaTypes::Oci }
}

pub(super) async fn export(
    kit: &Kit,
    solve: &Arc<Solve>,
    place: &Place<'_>,
    results: &Results,
    exporter: &Exporter,
) -> Result<Response, Status> {
    let kind = if exporter.kind == "docker" { "docker" } else { "oci" };
    let task = Task::begin(&solve.progress, &titled(&format!("exporting to {kind} image format"), place.number));
    let worked = work(kit, place, results, exporter, &task).await;
    task.done(&worked.as_ref().map(drop).map_err(|status| status.message().to_owned()));
    worked
}

async fn work(
    kit: &Kit,
    place: &Place<'_>,
    results: &Results,
    exporter: &Exporter,
    task: &Task,
) -> Result<Response, Status> {
    let attrs = &exporter.attrs;
    let names = names(attrs.get("name").map_or("", String::as_str))?;
    let part = task.part("exporting layers");
    let familiar = names.first().map(vocab::Reference::familiar).unwrap_or_default();
    let form = (form(&exporter.kind, attrs)?, media(attrs, usual(exporter))?);
    let package = package(kit, results, &Annotations::read(attrs)?, form, &familiar).await?;
    part.done();
    let digest = package.digest();
    task.part(&format!("exporting manifest {digest}")).done();
    let (media_type, bytes) = package.manifests.last().map_or((String::new(), 0), |(m, b)| (m.clone(), b.len()));
    let mut top = Top { media_type, digest, bytes: bytes as u64 };
    if attrs.contains_key("tar") && !flag(attrs, "tar")? {
        let store = ContentStore::new(place.session, "export".into());
        top = store.put_package(&kit.builder, &package).await?;
    } else {
        let (builder, names) = (kit.builder.clone(), names.clone());
        client::file(place, "sending tarball", task, move |out| {
            builder.write_archive(&package, &names, out).map_err(|error| status_of(&error, None))
        })
        .await?;
    }
    let mut response = described(&top, results);
    if !names.is_empty() {
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        response.insert("image.name".into(), names.join(","));
    }
    Ok(response)
}

/// What a client is told of an image that left.
pub(super) fn described(top: &Top, results: &Results) -> Response {
    let mut response = Response::new();
    response.insert("containerimage.digest".into(), top.digest.to_string());
    response.insert("containerimage.descriptor".into(), encoded(&top.descriptor()));
    if let [one] = results.built.as_slice() {
        response.insert("containerimage.config.digest".into(), image::hash::sha256(&one.config).to_string());
    }
    response
}
