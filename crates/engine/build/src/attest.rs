//! What is attested of an image when somebody asks: how it was made (SLSA provenance) and what is in it (SPDX). Pure, but for a
//! look at the image's own package databases.

use std::collections::BTreeMap;
use std::path::Path;

use jiff::Timestamp;
use linux::fs::Root;
use serde_json::{Value, json};
use vocab::Digest;

use crate::error::Result;
use crate::plan::{CopySource, Graph, Op, Options};
use crate::solve::{Builder, Built, Scratchpad, snapshot_name};

/// Bytes of a package database.
const DATABASE_BYTES_MAX: u64 = 64 << 20;

const PROVENANCE: &str = "https://slsa.dev/provenance/v0.2";
const BUILD_TYPE: &str = "https://mobyproject.org/buildkit@v1";
const PROVENANCE_V1: &str = "https://slsa.dev/provenance/v1";
const BUILD_TYPE_V1: &str = "https://github.com/moby/buildkit/blob/master/docs/attestations/slsa-definitions.md";
const SPDX: &str = "https://spdx.dev/Document";

/// What is known of one build beside its graph.
#[derive(Debug, Clone)]
pub struct BuildFacts<'a> {
    pub dockerfile: &'a str,
    pub options: &'a Options,
    /// The address of the context, if it was at one.
    pub remote: Option<String>,
    pub started_at: Timestamp,
    pub finished_at: Timestamp,
    /// Also what the caller chose: arguments and labels. Never what a secret is.
    pub max: bool,
    pub version: SlsaVersion,
}

/// The form of a provenance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SlsaVersion {
    #[default]
    V02,
    V1,
}

/// Predicate type and predicate. `digests` tells by which digest a registry knows an image.
pub fn provenance(
    graph: &Graph,
    facts: &BuildFacts<'_>,
    digests: &dyn Fn(&Digest) -> Option<Digest>,
) -> (String, Value) {
    let platform = format!("{}/{}", graph.config.os, graph.config.architecture);
    let mut materials: Vec<Value> = Vec::new();
    for node in &graph.nodes {
        match &node.op {
            Op::Image { reference, id } => {
                let name = reference.parse::<vocab::Reference>().map(|name| name.or_latest());
                let purl = match &name {
                    Ok(name) => format!(
                        "pkg:docker/{}@{}?platform={}",
                        name.familiar_repository(),
                        name.tag().unwrap_or_default(),
                        platform.replace('/', "%2F")
                    ),
                    Err(_) => format!("pkg:docker/{reference}"),
                };
                let digest = digests(id).unwrap_or(*id);
                materials.push(json!({ "uri": purl, "digest": { "sha256": digest.hex() } }));
            }
            Op::Copy(copy) => {
                for source in &copy.sources {
                    match source {
                        CopySource::Http { url, checksum } => {
                            let mut material = json!({ "uri": url });
                            if let Some(checksum) = checksum {
                                material["digest"] = json!({ "sha256": checksum.hex() });
                            }
                            materials.push(material);
                        }
                        CopySource::Git { remote, .. } => {
                            let mut material = json!({ "uri": remote.shown() });
                            if remote.is_commit() {
                                material["digest"] = json!({ "sha1": remote.reference });
                            }
                            materials.push(material);
                        }
                        CopySource::Path(_) | CopySource::Inline { .. } => {}
                    }
                }
            }
            _ => {}
        }
    }
    materials.dedup();
    let wanted = |list: &[crate::plan::Wanted]| -> Vec<Value> {
        list.iter()
            .map(|one| match one.required {
                true => json!({ "id": one.name }),
                false => json!({ "id": one.name, "optional": true }),
            })
            .collect()
    };
    let mut parameters = json!({ "frontend": "dockerfile.v0" });
    let (secrets, ssh) = (wanted(&graph.outline.secrets), wanted(&graph.outline.ssh));
    if !secrets.is_empty() {
        parameters["secrets"] = secrets.into();
    }
    if !ssh.is_empty() {
        parameters["ssh"] = ssh.into();
    }
    let locals: Vec<Value> = graph.contexts().iter().map(|name| json!({ "name": name })).collect();
    if !locals.is_empty() {
        parameters["locals"] = locals.into();
    }
    if facts.max {
        let mut args: BTreeMap<String, String> = BTreeMap::new();
        for (name, value) in &facts.options.args {
            let proxy = crate::plan::proxy_names().contains(&name.as_str());
            args.extend(value.clone().filter(|_| !proxy).map(|value| (format!("build-arg:{name}"), value)));
        }
        args.extend(facts.options.labels.iter().map(|(key, value)| (format!("label:{key}"), value.clone())));
        args.extend(facts.options.target.clone().map(|target| ("target".to_owned(), target)));
        if !args.is_empty() {
            parameters["args"] = json!(args);
        }
    }
    let (started, finished) = (facts.started_at.to_string(), facts.finished_at.to_string());
    let place = |key: &str| {
        let mut source = json!({ key: facts.dockerfile });
        if let Some(remote) = &facts.remote {
            source["uri"] = remote.clone().into();
        }
        source
    };
    match facts.version {
        SlsaVersion::V02 => {
            let predicate = json!({
                "builder": { "id": "" },
                "buildType": BUILD_TYPE,
                "materials": materials,
                "invocation": {
                    "configSource": place("entryPoint"),
                    "parameters": parameters,
                    "environment": { "platform": platform },
                },
                "metadata": {
                    "buildStartedOn": started,
                    "buildFinishedOn": finished,
                    "completeness": { "parameters": facts.max, "environment": true, "materials": false },
                    "reproducible": false,
                },
            });
            (PROVENANCE.to_owned(), predicate)
        }
        SlsaVersion::V1 => {
            let predicate = json!({
                "buildDefinition": {
                    "buildType": BUILD_TYPE_V1,
                    "externalParameters": { "configSource": place("path"), "request": parameters },
                    "internalParameters": { "builderPlatform": platform },
                    "resolvedDependencies": materials,
                },
                "runDetails": {
                    "builder": { "id": "" },
                    "metadata": {
                        "startedOn": started,
                        "finishedOn": finished,
                        "buildkit_completeness": { "request": facts.max, "resolvedDependencies": false },
                        "buildkit_hermetic": false,
                        "buildkit_reproducible": false,
                    },
                },
            });
            (PROVENANCE_V1.to_owned(), predicate)
        }
    }
}

/// One installed package.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Package {
    name: String,
    version: String,
    architecture: String,
    /// `deb` or `apk`, as package addresses have it.
    kind: &'static str,
}

impl Builder {
    /// The bill of materials of a build: what its package databases list. Blocking.
    pub fn sbom(&self, built: &Built, name: &str) -> Result<(String, Value)> {
        let store = self.engine().store();
        let pad = Scratchpad::new(store, snapshot_name(), built.top.as_ref())?;
        let root = Root::from_fd(store.mount_files(&pad.name)?);
        // What is not there, or is no file, lists nothing.
        let text = |path: &str| {
            let bytes = root.read(Path::new(path), DATABASE_BYTES_MAX).unwrap_or_default();
            String::from_utf8_lossy(&bytes).into_owned()
        };
        let mut packages = dpkg(&text("/var/lib/dpkg/status"));
        packages.extend(apk(&text("/lib/apk/db/installed")));
        let distribution = os_release(&text("/etc/os-release"));
        Ok((SPDX.to_owned(), spdx(name, &packages, &distribution, &image::hash::sha256(&built.config))))
    }
}

/// Paragraphs of `Name: value` lines.
fn dpkg(text: &str) -> Vec<Package> {
    let paragraphs = text.split("\n\n").map(|paragraph| {
        let field = |name: &str| {
            let line = paragraph.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            line.unwrap_or_default().trim().to_owned()
        };
        (field("Status"), field("Package"), field("Version"), field("Architecture"))
    });
    paragraphs
        .filter(|(status, name, ..)| !name.is_empty() && status.ends_with(" installed"))
        .map(|(_, name, version, architecture)| Package { name, version, architecture, kind: "deb" })
        .collect()
}

/// Paragraphs of `P:name`, `V:version`, `A:architecture` lines.
fn apk(text: &str) -> Vec<Package> {
    let paragraphs = text.split("\n\n").map(|paragraph| {
        let field = |name: &str| paragraph.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
        (field("P:").to_owned(), field("V:").to_owned(), field("A:").to_owned())
    });
    paragraphs
        .filter(|(name, ..)| !name.is_empty())
        .map(|(name, version, architecture)| Package { name, version, architecture, kind: "apk" })
        .collect()
}

fn os_release(text: &str) -> String {
    let id = text.lines().find_map(|line| line.strip_prefix("ID="));
    id.unwrap_or_default().trim_matches('"').to_owned()
}

fn spdx(name: &str, packages: &[Package], distribution: &str, image: &Digest) -> Value {
    let mut list = vec![json!({
        "SPDXID": "SPDXRef-DocumentRoot-Image",
        "name": name,
        "versionInfo": image.to_string(),
        "downloadLocation": "NOASSERTION",
        "primaryPackagePurpose": "CONTAINER",
        "filesAnalyzed": false,
    })];
    let mut relationships = vec![json!({
        "spdxElementId": "SPDXRef-DOCUMENT",
        "relationshipType": "DESCRIBES",
        "relatedSpdxElement": "SPDXRef-DocumentRoot-Image",
    })];
    for (at, package) in packages.iter().enumerate() {
        let id = format!("SPDXRef-Package-{}-{at}", package.kind);
        let purl = format!(
            "pkg:{}/{distribution}/{}@{}?arch={}",
            package.kind,
            package.name,
            package.version.replace('+', "%2B"),
            package.architecture
        );
        list.push(json!({
            "SPDXID": id,
            "name": package.name,
            "versionInfo": package.version,
            "downloadLocation": "NOASSERTION",
            "filesAnalyzed": false,
            "licenseConcluded": "NOASSERTION",
            "licenseDeclared": "NOASSERTION",
            "externalRefs": [{
                "referenceCategory": "PACKAGE-MANAGER",
                "referenceType": "purl",
                "referenceLocator": purl,
            }],
        }));
        relationships.push(json!({
            "spdxElementId": "SPDXRef-DocumentRoot-Image",
            "relationshipType": "CONTAINS",
            "relatedSpdxElement": id,
        }));
    }
    json!({
        "spdxVersion": "SPDX-2.3",
        "dataLicense": "CC0-1.0",
        "SPDXID": "SPDXRef-DOCUMENT",
        "name": name,
        "documentNamespace": format!("https://knarr.invalid/spdx/{}", image.hex()),
        "creationInfo": { "created": "1970-01-01T00:00:00Z", "creators": ["Tool: knarr"] },
        "packages": list,
        "relationships": relationships,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn package_databases_are_read() {
        let status = "Package: a\nStatus: install ok installed\nArchitecture: amd64\nVersion: 1.0+b\nDescription: x\n more: no\n\nPackage: gone\nStatus: deinstall ok config-files\nVersion: 2\n";
        let found = dpkg(status);
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].name.as_str(), found[0].version.as_str()), ("a", "1.0+b"));
        assert_eq!(apk("C:x\nP:musl\nV:1.2\nA:x86_64\n\nP:b\nV:3\n").len(), 2);
        assert_eq!(os_release("NAME=x\nID=\"debian\"\n"), "debian");
        let document = spdx("img", &found, "debian", &Digest::from_sha256([1; 32]));
        assert_eq!(
            document["packages"][1]["externalRefs"][0]["referenceLocator"],
            "pkg:deb/debian/a@1.0%2Bb?arch=amd64"
        );
    }
}
