//! `knarr registry`: a registry of its own, and the file that tells an engine which registries there are.

use std::collections::BTreeMap;
use std::fs::DirBuilder;
use std::net::SocketAddr;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use engine::Registries;
use registry::client::{self, Client};
use registry::server::{self, Action, AuthMethod, Grant, Listen, Server, Upstream, User};
use serde::Deserialize;
use tracing::info;

use crate::failure::Failure;
use crate::flags::{Flag, Matches, list, switch, text};
use crate::settings::Settings;

/// Read by an engine that is told no other file, if it is there.
const FILE: &str = "/etc/knarr/registries.json";
const WORKERS: usize = 2;

pub const FLAGS: &[Flag] = &[
    text("listen", "Address to listen on").default("127.0.0.1:5000"),
    text("tls-cert", "Certificate chain, PEM"),
    text("tls-key", "Key of the certificate, PEM"),
    switch("plain-http", "Speak plain HTTP although others can reach the address"),
    list("name", "Another host name under which the registry is called"),
    text("users", "File of users, one line each as 'knarr registry hash NAME' prints them"),
    text("auth", "How users prove who they are: basic or token").default("basic"),
    text("anonymous", "What may be done without a login where there are users: pull, pull,push, ...").default(""),
    list("upstream", "Cache another registry: [PREFIX=]ADDRESS"),
    switch("read-only", "Take nothing in"),
    switch("no-delete", "Delete nothing"),
    text("grace", "How long a blob without a manifest is kept").default("1h"),
    list("insecure-registry", "A registry behind this one that may speak plain HTTP or show any certificate"),
];

/// What the file may say. A word that it does not know is an error: a mistyped setting must not pass for one.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
struct File {
    insecure: Vec<String>,
    /// Addresses by domain.
    mirrors: BTreeMap<String, Vec<String>>,
    certs: Vec<PathBuf>,
    authorities: Vec<PathBuf>,
    downloads: Option<usize>,
    uploads: Option<usize>,
    chunk_bytes: u64,
    /// The engine's own registry.
    serve: Option<Serve>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
struct Serve {
    listen: String,
    tls_cert: Option<PathBuf>,
    tls_key: Option<PathBuf>,
    plain_http: bool,
    names: Vec<String>,
    users: Option<PathBuf>,
    auth: String,
    anonymous: String,
    upstreams: Vec<String>,
    read_only: bool,
    no_delete: bool,
    grace_secs: Option<u64>,
}

/// The registries of an engine: from the file that is named, or the usual one if it exists.
pub fn registries(named: Option<&str>) -> Result<Registries, Failure> {
    let path = Path::new(named.unwrap_or(FILE));
    match std::fs::read(path) {
        Ok(bytes) => parse(&bytes).map_err(|problem| Failure::new(format!("{}: {problem}", path.display()))),
        Err(error) if named.is_none() && error.kind() == std::io::ErrorKind::NotFound => Ok(Registries::default()),
        Err(error) => Err(Failure::new(format!("read {}: {error}", path.display()))),
    }
}

fn parse(bytes: &[u8]) -> Result<Registries, String> {
    let file: File = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    let default = client::Config::default();
    let mirrors = file.mirrors.into_iter().flat_map(|(domain, addresses)| {
        addresses.into_iter().map(move |address| (domain.clone(), address)).collect::<Vec<_>>()
    });
    let client = client::Config {
        insecure: file.insecure,
        mirrors: mirrors.collect(),
        certs: if file.certs.is_empty() { default.certs } else { file.certs },
        authorities: file.authorities,
        downloads: file.downloads.unwrap_or(default.downloads),
        uploads: file.uploads.unwrap_or(default.uploads),
        chunk_bytes: file.chunk_bytes,
    };
    Ok(Registries { client, serve: file.serve.map(Serve::build).transpose()? })
}

impl Serve {
    fn build(self) -> Result<(Listen, server::Config), String> {
        let default = server::Config::default();
        let address = if self.listen.is_empty() { "127.0.0.1:5000" } else { &self.listen };
        let address: SocketAddr =
            address.parse().map_err(|_| format!("listen address {address:?}: expected IP:PORT"))?;
        let tls = match (self.tls_cert, self.tls_key) {
            (None, None) => None,
            (Some(chain), Some(key)) => Some((chain, key)),
            _ => return Err("a certificate needs its key, and the reverse".into()),
        };
        let method = match self.auth.as_str() {
            "" | "basic" => AuthMethod::Basic,
            "token" => AuthMethod::Token,
            other => return Err(format!("authentication {other:?}: expected basic or token")),
        };
        let users = self.users.as_deref().map(User::read_file).transpose()?.unwrap_or_default();
        let anonymous = match self.anonymous.as_str() {
            "" | "none" => Vec::new(),
            actions => {
                let actions: Option<Vec<Action>> = actions.split(',').map(action).collect();
                vec![Grant::everywhere(
                    actions.ok_or_else(|| format!("anonymous {:?}: expected pull, push, delete", self.anonymous))?,
                )]
            }
        };
        let upstreams = self
            .upstreams
            .iter()
            .map(|text| Upstream::parse(text).ok_or_else(|| format!("upstream {text:?}: expected [PREFIX=]ADDRESS")));
        let config = server::Config {
            users,
            anonymous,
            method,
            upstreams: upstreams.collect::<Result<_, _>>()?,
            read_only: self.read_only,
            deletes: !self.no_delete,
            grace: self.grace_secs.map_or(default.grace, std::time::Duration::from_secs),
            ..default
        };
        Ok((Listen { address, tls, names: self.names, plain: self.plain_http }, config))
    }
}

fn action(text: &str) -> Option<Action> {
    match text.trim() {
        "pull" => Some(Action::Pull),
        "push" => Some(Action::Push),
        "delete" => Some(Action::Delete),
        _ => None,
    }
}

/// `knarr registry` serves; `knarr registry hash NAME` prints a line for the file of users.
pub fn main(settings: &Settings, root_given: bool, matches: &Matches) -> Result<u8, Failure> {
    let failed = |problem: String| Failure::new(format!("knarr registry: {problem}"));
    match matches.arguments.as_slice() {
        [] => {}
        [word, name] if word == "hash" => {
            let mut password = String::new();
            std::io::Read::read_to_string(&mut std::io::Read::take(std::io::stdin(), 64 << 10), &mut password)?;
            let line = User::line(name, password.trim_end_matches(['\n', '\r'])).map_err(failed)?;
            crate::commands::out(&format!("{line}\n"))?;
            return Ok(0);
        }
        _ => return Err(failed("expected nothing, or hash NAME with the password on standard input".into()).code(125)),
    }
    if !root_given {
        return Err(failed("--root DIR says where it keeps what it is given".into()).code(125));
    }
    let own = |name: &str| matches.text(name).unwrap_or_default().to_owned();
    let serve = Serve {
        listen: own("listen"),
        tls_cert: matches.text("tls-cert").map(PathBuf::from),
        tls_key: matches.text("tls-key").map(PathBuf::from),
        plain_http: matches.is("plain-http"),
        names: matches.list("name").to_vec(),
        users: matches.text("users").map(PathBuf::from),
        auth: own("auth"),
        anonymous: own("anonymous"),
        upstreams: matches.list("upstream").to_vec(),
        read_only: matches.is("read-only"),
        no_delete: matches.is("no-delete"),
        grace_secs: matches.duration_nanos("grace").map(|nanos| (nanos / 1_000_000_000).unsigned_abs()),
    };
    let (listen, config) = serve.build().map_err(failed)?;
    crate::daemon::log(settings.debug);
    let made = DirBuilder::new().recursive(true).mode(0o711).create(&settings.root);
    made.map_err(|error| failed(format!("create {}: {error}", settings.root.display())))?;
    let client = client::Config { insecure: matches.list("insecure-registry").to_vec(), ..client::Config::default() };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKERS)
        .thread_keep_alive(std::time::Duration::from_secs(2))
        .enable_all()
        .build()
        .map_err(|error| failed(format!("start threads: {error}")))?;
    let served = runtime.block_on(run(&settings.root, listen, config, client));
    runtime.shutdown_background();
    served.map(|()| 0).map_err(failed)
}

async fn run(root: &Path, listen: Listen, config: server::Config, client: client::Config) -> Result<(), String> {
    let stop = crate::daemon::stop_signal().map_err(|error| format!("take signals: {error}"))?;
    let db = db::Db::open(&root.join("knarr.db")).map_err(|error| error.to_string())?;
    let store = image::Store::open(root, db, image::Options::default()).map_err(|error| error.to_string())?;
    let server = Server::open(Arc::new(store), config, Client::new(client)).map_err(|error| error.to_string())?;
    let listening = server.bind(&listen).await.map_err(|error| error.to_string())?;
    // The address itself, on a line of its own: whoever asked for any free port waits for it.
    crate::commands::out(&format!("{}\n", listening.address())).map_err(|failure| failure.message)?;
    info!(address = %listening.address(), root = %root.display(), "serving the registry");
    tokio::select! {
        () = listening.serve(stop) => {}
        () = server.keep_clean() => {}
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_says_which_registries_there_are() {
        let text = br#"{"insecure": ["r:5000"], "mirrors": {"docker.io": ["https://m"]}, "downloads": 2,
            "serve": {"listen": "127.0.0.1:0", "anonymous": "pull", "upstreams": ["hub=docker.io"]}}"#;
        let registries = parse(text).unwrap();
        assert_eq!(registries.client.insecure, ["r:5000"]);
        assert_eq!(registries.client.mirrors, [("docker.io".to_owned(), "https://m".to_owned())]);
        let (listen, config) = registries.serve.unwrap();
        assert!(listen.address.ip().is_loopback() && config.upstreams.len() == 1 && config.anonymous.len() == 1);
        assert!(parse(b"{}").unwrap().serve.is_none());
        for bad in [
            &br#"{"insecured": []}"#[..],
            br#"{"serve": {"listen": "nowhere"}}"#,
            br#"{"serve": {"tls-cert": "/x"}}"#,
            br#"{"serve": {"auth": "magic"}}"#,
            br#"{"serve": {"upstreams": ["x="]}}"#,
            br#"{"serve": {"users": "/no/such/file"}}"#,
        ] {
            assert!(parse(bad).is_err(), "{}", String::from_utf8_lossy(bad));
        }
    }
}
