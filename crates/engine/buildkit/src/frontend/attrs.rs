//! A frontend's attributes to what a build is asked for. Pure. An attribute that would change a build and is not understood
//! is refused.

use std::collections::{BTreeMap, HashMap};

use build::SlsaVersion;
use build::plan::{Entitlements, NamedContext, Options};
use build::syntax::RunNetwork;

/// What a client wants built, and how.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    /// Path of the Dockerfile within its folder.
    pub(crate) filename: String,
    /// The client's name of the folder that the Dockerfile is in.
    pub(crate) dockerfile_key: String,
    /// The Dockerfile comes from that folder even if the context is remote.
    pub(crate) dockerfile_local: bool,
    pub(crate) context_key: String,
    /// The context, where it is not a folder of the client.
    pub(crate) remote: Option<Remote>,
    pub(crate) context_subdir: String,
    pub(crate) options: Options,
    /// Named contexts that are results of other builds, by the name that stands for them.
    pub(crate) inputs: BTreeMap<String, String>,
    /// Ask the registry even for images that are here.
    pub(crate) pull: bool,
    pub(crate) host: engine::HostConfig,
    /// Named contexts at addresses, by the names that stand for them in [`Options::contexts`].
    pub(crate) named_remotes: BTreeMap<String, build::Remote>,
    pub(crate) keep_git_dir: bool,
    /// What the image is for; none: this machine.
    pub(crate) platforms: Vec<image::Platform>,
    /// Named contexts that are images in a layout at the client: the client's name of the layout, and the digest in it.
    pub(crate) layouts: BTreeMap<String, (String, vocab::Digest)>,
    pub(crate) attest: Attest,
    /// What is asked instead of a build (`frontend.outline`).
    pub(crate) request: Option<String>,
    /// `BUILDKIT_SYNTAX`: a frontend of the client's choice.
    pub(crate) syntax: Option<String>,
}

/// What is to be attested of the image.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Attest {
    /// How it was made; also what the caller chose.
    pub(crate) provenance: Option<bool>,
    pub(crate) slsa: SlsaVersion,
    /// What is in it.
    pub(crate) sbom: bool,
}

impl Attest {
    pub(crate) fn any(self) -> bool {
        self.provenance.is_some() || self.sbom
    }
}

/// A context that is not a folder of the client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Remote {
    /// What the client sends on its standard input: the path of an upload.
    Upload(String),
    Address(build::Remote),
}

/// What a step's host is called.
const HOSTNAME: &str = "buildkitsandbox";

const UPLOAD_HOSTS: [&str; 2] = ["http://buildkit-session/", "https://buildkit-session/"];

impl Asked {
    pub(crate) fn read(attrs: &HashMap<String, String>, entitlements: &[String]) -> Result<Self, String> {
        let text = |name: &str| attrs.get(name).map(String::as_str).filter(|value| !value.is_empty());
        let mut args: BTreeMap<String, Option<String>> = BTreeMap::new();
        let mut labels = BTreeMap::new();
        let mut named = BTreeMap::new();
        let mut inputs = BTreeMap::new();
        let mut named_remotes = BTreeMap::new();
        let mut layouts = BTreeMap::new();
        let mut attest = Attest::default();
        for (key, value) in attrs {
            if let Some(name) = key.strip_prefix("build-arg:") {
                args.insert(name.to_owned(), Some(value.clone()));
            } else if let Some(name) = key.strip_prefix("label:") {
                labels.insert(name.to_owned(), value.clone());
            } else if let Some(name) = key.strip_prefix("context:") {
                if let Some(input) = value.strip_prefix("input:") {
                    inputs.insert(name.to_owned(), input.to_owned());
                } else if let Some(remote) = build::Remote::parse(value)? {
                    let place = format!("remote:{name}");
                    named.insert(name.to_owned(), NamedContext::Local(place.clone()));
                    named_remotes.insert(place, remote);
                } else if let Some(place) = value.strip_prefix("oci-layout://") {
                    layouts.insert(name.to_owned(), layout(name, place)?);
                } else {
                    named.insert(name.to_owned(), named_context(name, value)?);
                }
            } else if let Some(kind) = key.strip_prefix("attest:") {
                attestation(kind, value, &mut attest)?;
            } else {
                known(key)?;
            }
        }
        let host = host(attrs)?;
        let network = match text("force-network-mode") {
            None | Some("sandbox" | "default") => RunNetwork::Default,
            Some("none") => RunNetwork::None,
            Some("host") => RunNetwork::Host,
            Some(mode) => return Err(format!("invalid netmode {mode}")),
        };
        let mut allow = Entitlements::default();
        for entitlement in entitlements {
            match entitlement.split('=').next().unwrap_or_default() {
                "network.host" => allow.host_network = true,
                "security.insecure" => allow.insecure = true,
                other => return Err(format!("unknown entitlement {other}")),
            }
        }
        let mut platforms: Vec<image::Platform> = Vec::new();
        for text in text("platform").unwrap_or_default().split(',').filter(|text| !text.is_empty()) {
            let one = image::Platform::parse(text).map_err(|e| format!("failed to parse platform {text}: {e}"))?;
            if !platforms.contains(&one) {
                platforms.push(one);
            }
        }
        let platform = platforms.first().cloned();
        let (no_cache, no_cache_stages) = match attrs.get("no-cache").map(String::as_str) {
            None => (false, Vec::new()),
            Some("") => (true, Vec::new()),
            Some(stages) => (false, stages.split(',').map(str::to_owned).collect()),
        };
        let context_key = text("contextkey").unwrap_or("context").to_owned();
        let pull = match text("image-resolve-mode") {
            None | Some("default" | "local") => false,
            Some("pull") => true,
            Some(mode) => return Err(format!("invalid image-resolve-mode: {mode}")),
        };
        let arg = |name: &str| args.get(name).cloned().flatten().filter(|value| !value.is_empty());
        let hostname = arg("BUILDKIT_SANDBOX_HOSTNAME").or_else(|| text("hostname").map(str::to_owned));
        if let Some(name) = hostname.filter(|name| name != HOSTNAME) {
            return Err(format!("hostname {name}: the host name of build steps is {HOSTNAME} in this builder"));
        }
        let keep_git_dir = arg("BUILDKIT_CONTEXT_KEEP_GIT_DIR").is_some_and(|value| value != "0" && value != "false");
        let syntax = arg("BUILDKIT_SYNTAX").or_else(|| text("source").map(str::to_owned));
        let options = Options {
            target: text("target").map(str::to_owned),
            args,
            labels,
            platform,
            contexts: named,
            network,
            allow,
            no_cache,
            no_cache_stages,
            // A question about the file is answered also where a build would be refused.
            only_check: text("requestid").is_some(),
            ..Options::default()
        };
        Ok(Self {
            filename: text("filename").unwrap_or("Dockerfile").to_owned(),
            dockerfile_key: text("dockerfilekey").unwrap_or("dockerfile").to_owned(),
            dockerfile_local: attrs.contains_key("dockerfilekey"),
            remote: text(&context_key).map(remote).transpose()?,
            context_key: "context".into(),
            context_subdir: text("contextsubdir").unwrap_or_default().to_owned(),
            options,
            inputs,
            pull,
            host,
            named_remotes,
            keep_git_dir,
            platforms,
            layouts,
            attest,
            request: text("requestid").map(str::to_owned),
            syntax,
        })
    }
}

impl Asked {
    /// Older clients ask by a build argument that the image carries its cache.
    pub(crate) fn inline_cache(&self) -> bool {
        let value = self.options.args.get("BUILDKIT_INLINE_CACHE").cloned().flatten();
        value.is_some_and(|value| matches!(value.as_str(), "1" | "true" | "TRUE" | "True" | "t" | "T"))
    }

    /// The same for one of its platforms.
    pub(crate) fn on(&self, platform: &image::Platform) -> Self {
        let mut asked = self.clone();
        asked.options.platform = Some(platform.clone());
        asked.platforms = vec![platform.clone()];
        asked
    }
}

fn remote(url: &str) -> Result<Remote, String> {
    if let Some(path) = UPLOAD_HOSTS.iter().find_map(|host| url.strip_prefix(host)) {
        return Ok(Remote::Upload(format!("/{path}")));
    }
    let remote = build::Remote::parse(url)?;
    remote.map(Remote::Address).ok_or_else(|| format!("build context {url:?} is neither a git nor an http(s) URL"))
}

fn named_context(name: &str, value: &str) -> Result<NamedContext, String> {
    if let Some(folder) = value.strip_prefix("local:") {
        return Ok(NamedContext::Local(folder.to_owned()));
    }
    match value.strip_prefix("docker-image://") {
        Some(reference) => Ok(NamedContext::Image(reference.to_owned())),
        None => Err(format!(
            "named context {name}={value}: only folders, addresses, images and other targets can be named contexts here"
        )),
    }
}

/// The client's name of a layout, perhaps with a tag, and the digest of what is meant in it.
fn layout(name: &str, place: &str) -> Result<(String, vocab::Digest), String> {
    let bad = || format!("named context {name}: oci-layout://{place} has no digest");
    let (store, digest) = place.split_once('@').ok_or_else(bad)?;
    let store = store.split_once(':').map_or(store, |(store, _tag)| store);
    Ok((store.to_owned(), digest.parse().map_err(|_| bad())?))
}

/// Attestations that a client adds on its own account are left to images that carry them anyway; ones that a user asked for
/// are made, or refused where they cannot be.
fn attestation(kind: &str, value: &str, attest: &mut Attest) -> Result<(), String> {
    let mut max = true;
    for word in value.split(',').filter(|word| !word.is_empty()) {
        match word.split_once('=').unwrap_or((word, "")) {
            ("disabled" | "inline-only", "true") => return Ok(()),
            ("disabled" | "inline-only", _) | ("type", _) => {}
            ("mode", "max" | "full") if kind == "provenance" => max = true,
            ("mode", "min") if kind == "provenance" => max = false,
            ("version", "v0.2") if kind == "provenance" => attest.slsa = SlsaVersion::V02,
            ("version", "v1") if kind == "provenance" => attest.slsa = SlsaVersion::V1,
            ("generator", generator) => {
                return Err(format!(
                    "attestation {kind}: generator {generator} is not run, the scanner of this builder is built in"
                ));
            }
            _ => return Err(format!("attestation {kind}: {word} is not supported by this builder")),
        }
    }
    match kind {
        "provenance" => attest.provenance = Some(max),
        "sbom" => attest.sbom = true,
        other => return Err(format!("attestation {other}: this builder makes provenance and sbom")),
    }
    Ok(())
}

/// Attributes that are read somewhere, or that change nothing here.
fn known(key: &str) -> Result<(), String> {
    const KNOWN: &[&str] = &[
        "filename",
        "target",
        "platform",
        "no-cache",
        "image-resolve-mode",
        "add-hosts",
        "force-network-mode",
        "shm-size",
        "ulimit",
        "cgroup-parent",
        "hostname",
        "context",
        "contextkey",
        "dockerfilekey",
        "contextsubdir",
        "requestid",
        "source",
        // How the client found us, and what a forwarded request may need.
        "cmdline",
        "frontend.caps",
        "multi-platform",
        // Imports stand in the request itself too.
        "cache-imports",
        "cache-from",
    ];
    const PREFIXES: &[&str] = &["vcs:", "local-sessionid:", "input-metadata:", "build-arg:"];
    if KNOWN.contains(&key) || PREFIXES.iter().any(|prefix| key.starts_with(prefix)) {
        return Ok(());
    }
    Err(format!("unknown frontend attribute {key:?}"))
}

fn host(attrs: &HashMap<String, String>) -> Result<engine::HostConfig, String> {
    let text = |name: &str| attrs.get(name).map(String::as_str).filter(|value| !value.is_empty());
    let mut host = engine::HostConfig::default();
    if let Some(hosts) = text("add-hosts") {
        for pair in hosts.split(',') {
            let (name, address) =
                pair.split_once('=').ok_or_else(|| format!("failed to parse additional hosts: {pair}"))?;
            host.extra_hosts.push(format!("{name}:{address}"));
        }
    }
    if let Some(size) = text("shm-size") {
        host.shm_size_bytes = size.parse().map_err(|_| format!("failed to parse shm size: {size}"))?;
    }
    if let Some(limits) = text("ulimit") {
        for limit in limits.split(',') {
            host.resources.ulimits.push(ulimit(limit).ok_or_else(|| format!("failed to parse ulimit: {limit}"))?);
        }
    }
    if let Some(parent) = text("cgroup-parent") {
        host.resources.cgroup_parent = parent.to_owned();
    }
    Ok(host)
}

/// `nofile=1024:2048`
fn ulimit(text: &str) -> Option<engine::Ulimit> {
    let (name, values) = text.split_once('=')?;
    let (soft, hard) = values.split_once(':').unwrap_or((values, values));
    Some(engine::Ulimit { name: name.to_owned(), soft: soft.parse().ok()?, hard: hard.parse().ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(pairs: &[(&str, &str)]) -> Result<Asked, String> {
        let attrs = pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        Asked::read(&attrs, &[])
    }

    #[test]
    fn what_buildx_sends_for_a_plain_build() {
        let asked = read(&[("filename", "Dockerfile"), ("image-resolve-mode", "local"), ("build-arg:A", "1")]);
        let asked = asked.expect("understood");
        assert_eq!((asked.filename.as_str(), asked.context_key.as_str()), ("Dockerfile", "context"));
        assert_eq!(asked.options.args["A"].as_deref(), Some("1"));
        assert!(!asked.pull && asked.remote.is_none() && !asked.options.no_cache);
    }

    #[test]
    fn no_cache_of_all_or_of_some() {
        assert!(read(&[("no-cache", "")]).expect("understood").options.no_cache);
        let some = read(&[("no-cache", "a,b")]).expect("understood").options;
        assert_eq!((some.no_cache, some.no_cache_stages), (false, vec!["a".to_owned(), "b".to_owned()]));
    }

    const LAID: &str =
        "oci-layout://store1:tag@sha256:1111111111111111111111111111111111111111111111111111111111111111";

    #[test]
    fn contexts_of_every_kind() {
        let asked = read(&[
            ("context", "http://buildkit-session/abc"),
            ("context:src", "local:src-1"),
            ("context:base", "docker-image://alpine"),
            ("context:other", "input:other"),
            ("context:laid", LAID),
            ("platform", "linux/amd64,linux/arm64"),
        ]);
        let asked = asked.expect("understood");
        assert_eq!(asked.remote, Some(Remote::Upload("/abc".into())));
        assert_eq!(asked.options.contexts["src"], NamedContext::Local("src-1".into()));
        assert_eq!(asked.options.contexts["base"], NamedContext::Image("alpine".into()));
        assert_eq!(asked.inputs["other"], "other");
        assert_eq!(asked.layouts["laid"].0, "store1");
        assert_eq!(asked.platforms.iter().map(ToString::to_string).collect::<Vec<_>>(), ["linux/amd64", "linux/arm64"]);
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        for pairs in [
            &[("automount:x", "y")][..],
            &[("platform", "linux/a/b/c/d")],
            &[("force-network-mode", "mynet")],
            &[("image-resolve-mode", "never")],
            &[("add-hosts", "x")],
            &[("ulimit", "nofile")],
            &[("attest:sbom", "generator=image")],
            &[("attest:provenance", "mode=some")],
            &[("attest:provenance", "version=v2")],
            &[("attest:virtue", "")],
            &[("context:a", "oci-layout://x")],
        ] {
            assert!(read(pairs).is_err(), "{pairs:?}");
        }
        let attest = |kind, value| read(&[(kind, value)]).expect("understood").attest;
        assert!(!attest("attest:provenance", "mode=min,inline-only=true").any());
        assert_eq!(attest("attest:provenance", "mode=min").provenance, Some(false));
        assert_eq!(attest("attest:provenance", "").provenance, Some(true));
        assert_eq!(attest("attest:provenance", "mode=max,version=v1").slsa, SlsaVersion::V1);
        assert!(attest("attest:sbom", "").sbom && !attest("attest:sbom", "disabled=true").sbom);
    }
}
