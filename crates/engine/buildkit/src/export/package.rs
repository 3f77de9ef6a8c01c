//! Images as they leave the machine: blobs and manifests, with what is said about them.

use std::collections::BTreeMap;
use std::sync::Arc;

use build::{BuildFacts, Built, LayerForm, MediaTypes, Package, PackageOptions};
use jiff::Timestamp;
use tonic::Status;

use super::{Response, Results};
use crate::errors::status_of;
use crate::frontend::Remote;
use crate::kit::Kit;
use crate::target::Target;

/// Annotations that an exporter's attributes ask for.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Annotations(Vec<Annotation>);

#[derive(Debug, PartialEq)]
struct Annotation {
    on: On,
    /// Only of the image for this platform.
    platform: Option<String>,
    key: String,
    value: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum On {
    Manifest,
    Descriptor,
    Index,
}

impl Annotations {
    /// `annotation.KEY`, `annotation-manifest[linux/amd64].KEY`, `annotation-index.KEY`, ...
    pub(super) fn read(attrs: &Response) -> Result<Self, Status> {
        let mut list = Vec::new();
        for (name, value) in attrs {
            if !is_annotation(name) {
                continue;
            }
            let (place, key) = name.split_once('.').unwrap_or((name, ""));
            let (kind, platform) = match place.split_once('[') {
                Some((kind, rest)) => (kind, Some(rest.trim_end_matches(']').to_owned())),
                None => (place, None),
            };
            let on = match kind {
                "annotation" | "annotation-manifest" => On::Manifest,
                "annotation-manifest-descriptor" => On::Descriptor,
                "annotation-index" => On::Index,
                other => return Err(Status::unimplemented(format!("{other} annotations are not supported"))),
            };
            if key.is_empty() {
                return Err(Status::invalid_argument(format!("annotation {name:?} has no name")));
            }
            list.push(Annotation { on, platform, key: key.to_owned(), value: value.clone() });
        }
        Ok(Self(list))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn of(&self, on: On, platform: &str) -> BTreeMap<String, String> {
        let fits = |a: &&Annotation| a.on == on && a.platform.as_deref().is_none_or(|p| p == platform);
        self.0.iter().filter(fits).map(|a| (a.key.clone(), a.value.clone())).collect()
    }
}

pub(super) fn is_annotation(name: &str) -> bool {
    name.starts_with("annotation") && name.contains('.')
}

/// One package of everything: a manifest alone where that is enough, else an index.
pub(super) async fn package(
    kit: &Kit,
    results: &Results,
    annotations: &Annotations,
    (form, media): (LayerForm, MediaTypes),
    name: &str,
) -> Result<Arc<Package>, Status> {
    let mut packages = Vec::new();
    for (target, built) in results.targets.iter().zip(&results.built) {
        let (kit, target, built, name) = (kit.clone(), target.clone(), built.clone(), name.to_owned());
        let platform = target.platform();
        let options = PackageOptions {
            annotations: annotations.of(On::Manifest, &platform),
            descriptor_annotations: annotations.of(On::Descriptor, &platform),
            index_annotations: annotations.of(On::Index, &platform),
            attestations: Vec::new(),
            form,
            media,
        };
        let work = tokio::task::spawn_blocking(move || {
            let attestations = attested(&kit, &target, &built, &name)?;
            let options = PackageOptions { attestations, ..options };
            kit.builder.package(&built, &options).map_err(|error| status_of(&error, None))
        });
        packages.push(work.await.map_err(|error| Status::internal(error.to_string()))??);
    }
    let package = match packages.len() {
        1 => packages.remove(0),
        _ => Package::join(packages, &annotations.of(On::Index, "")).map_err(|error| status_of(&error, None))?,
    };
    Ok(Arc::new(package))
}

/// What was asked to be attested. Blocking.
fn attested(kit: &Kit, target: &Target, built: &Built, name: &str) -> Result<Vec<(String, serde_json::Value)>, Status> {
    let (asked, mut list) = (&target.asked, Vec::new());
    if let Some(max) = asked.attest.provenance {
        let facts = BuildFacts {
            dockerfile: &asked.filename,
            options: &asked.options,
            remote: match &asked.remote {
                Some(Remote::Address(build::Remote::Http(url))) => Some(url.clone()),
                Some(Remote::Address(build::Remote::Git(git))) => Some(git.shown()),
                Some(Remote::Upload(_)) | None => None,
            },
            started_at: target.created_at,
            finished_at: Timestamp::now(),
            max,
            version: asked.attest.slsa,
        };
        let store = kit.builder.engine().store();
        let digests = |id: &vocab::Digest| {
            store.inspect(&id.to_string()).ok()?.digests.first().and_then(vocab::Reference::digest)
        };
        list.push(build::provenance(&target.prepared.graph, &facts, &digests));
    }
    if asked.attest.sbom {
        list.push(kit.builder.sbom(built, name).map_err(|error| status_of(&error, None))?);
    }
    Ok(list)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn annotations_say_where_they_belong() {
        let attrs = [
            ("annotation.a", "1"),
            ("annotation-manifest[linux/arm64].b.c", "2"),
            ("annotation-manifest-descriptor.d", "3"),
            ("annotation-index.e", "4"),
            ("name", "x"),
        ];
        let attrs: Response = attrs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        let read = Annotations::read(&attrs).unwrap();
        let keys = |on, platform| read.of(on, platform).into_keys().collect::<Vec<_>>();
        assert_eq!(keys(On::Manifest, "linux/amd64"), ["a"]);
        assert_eq!(keys(On::Manifest, "linux/arm64"), ["a", "b.c"]);
        assert_eq!(keys(On::Descriptor, "linux/amd64"), ["d"]);
        assert_eq!(keys(On::Index, ""), ["e"]);
        let strange = |name: &str| Annotations::read(&Response::from([(name.to_owned(), String::new())]));
        assert!(strange("annotation-index-descriptor.a").is_err() && strange("annotation.").is_err());
    }
}
