//! `knarr server`: the Kubernetes API of one cluster. So far it runs without nodes, which has to be said.

use std::ffi::OsString;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;

use apiserver::{Config, EtcdOptions, Server, Tls};
use tokio::signal::unix::{SignalKind, signal};

use crate::flags::{self, Flag, switch, text};

const FLAGS: &[Flag] = &[
    switch("no-node", "Serve the API alone, without running pods on this machine"),
    switch("ephemeral", "Keep everything in memory and forget it at the end"),
    text("root", "Directory of everything that lasts (default: /var/lib/knarr)"),
    text("run", "Directory of this boot's state (default: /run/knarr)"),
    text(
        "datastore",
        "Addresses of an etcd to keep the cluster in, separated by commas (default: a file below the root)",
    ),
    text("datastore-cafile", "Authority of the etcd's certificates, PEM"),
    text("datastore-certfile", "Certificate to show to the etcd, PEM"),
    text("datastore-keyfile", "Key of that certificate, PEM"),
    text("address", "Address to listen on (default: 127.0.0.1)"),
    text("port", "Port to listen on; 0 takes a free one (default: 6443)"),
    text("kubeconfig", "Where to write the administrator's kubeconfig (default: kubeconfig in the run directory)"),
    text("token-auth-file", "File of static bearer tokens: token,user,uid,\"group1,group2\""),
    text("tls-san", "More names and addresses for the serving certificate, separated by commas"),
    switch("debug", "Say more about what happens").short('D'),
    switch("help", "Print this help").short('h'),
];

/// Threads that serve the API.
const WORKERS: usize = 2;

pub fn main(words: &[OsString]) -> ExitCode {
    let task = words.first().and_then(|word| word.to_str()).unwrap_or_default();
    let outcome = match task {
        "backup" | "restore" | "move" => data(task, &words[1..]),
        _ => serve(words),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("knarr server: {message}");
            ExitCode::FAILURE
        }
    }
}

const DATA_FLAGS: &[Flag] = &[
    text("from", "Where the data is: a server's root directory, addresses of an etcd, or for restore a backup file"),
    text("to", "Where it shall go: a root directory, addresses of an etcd, or for backup a file"),
    text("datastore-cafile", "Authority of the etcd's certificates, PEM"),
    text("datastore-certfile", "Certificate to show to the etcd, PEM"),
    text("datastore-keyfile", "Key of that certificate, PEM"),
    switch("help", "Print this help").short('h'),
];

/// `knarr server backup|restore|move`: a cluster's data while no server holds it.
fn data(task: &str, words: &[OsString]) -> Result<(), String> {
    use apiserver::data::{Place, backup, restore, transfer};
    let words: Vec<String> = words.iter().map(|word| word.to_string_lossy().into_owned()).collect();
    let matches = flags::parse(&[DATA_FLAGS], true, &words).map_err(|error| error.to_string())?;
    if matches.is("help") {
        println!(
            "Usage:  knarr server {task} --from WHERE --to WHERE\n\nbackup writes a cluster's data to a file, restore fills an empty \
             place from one, move copies from one place to an empty one.\nA running server gives its data too: kubectl get --raw \
             /knarr/backup > FILE\n\nOptions:\n{}",
            flags::help(&[DATA_FLAGS])
        );
        return Ok(());
    }
    let named = |flag: &str| {
        let text = matches.text(flag).filter(|text| !text.is_empty());
        text.map(str::to_owned).ok_or_else(|| format!("--{flag} is missing"))
    };
    let (from, to) = (named("from")?, named("to")?);
    let place = |text: &str| -> Result<Place, String> {
        match text.starts_with("http://") || text.starts_with("https://") {
            true => Ok(Place::Etcd(etcd(&matches, text)?)),
            false => Ok(Place::Root(PathBuf::from(text).join("cluster"))),
        }
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKERS)
        .enable_all()
        .build()
        .map_err(|error| format!("start threads: {error}"))?;
    runtime.block_on(async {
        let said = |error: apiserver::data::DataError| chain(&error);
        match task {
            "backup" => {
                let (revision, keys) = backup(&place(&from)?, &PathBuf::from(&to)).await.map_err(said)?;
                println!("{keys} keys at revision {revision} are in {to}");
            }
            "restore" => {
                let keys = restore(&PathBuf::from(&from), &place(&to)?).await.map_err(said)?;
                println!("{keys} keys are restored to {to}");
            }
            _ => {
                let keys = transfer(&place(&from)?, &place(&to)?).await.map_err(said)?;
                println!("{keys} keys are copied from {from} to {to}");
            }
        }
        Ok(())
    })
}

fn serve(words: &[OsString]) -> Result<(), String> {
    let words: Vec<String> = words.iter().map(|word| word.to_string_lossy().into_owned()).collect();
    let matches = flags::parse(&[FLAGS], true, &words).map_err(|error| error.to_string())?;
    if matches.is("help") {
        let options = flags::help(&[FLAGS]);
        println!(
            "Usage:  knarr server --no-node [OPTIONS]\n        knarr server backup|restore|move --from WHERE --to WHERE\n\nServe the Kubernetes API of a cluster\n\nOptions:\n{options}"
        );
        return Ok(());
    }
    if !matches.is("no-node") {
        return Err("'knarr up' runs an API with a node; say --no-node to serve the API alone".into());
    }
    let path = |flag: &str, default: &str| PathBuf::from(matches.text(flag).unwrap_or(default));
    let (root, run) = (path("root", "/var/lib/knarr"), path("run", "/run/knarr"));
    let address: IpAddr = match matches.text("address") {
        None => IpAddr::V4(Ipv4Addr::LOCALHOST),
        Some(text) => text.parse().map_err(|error| format!("--address {text}: {error}"))?,
    };
    let port: u16 = match matches.text("port") {
        None => 6443,
        Some(text) => text.parse().map_err(|error| format!("--port {text}: {error}"))?,
    };
    let kubeconfig = matches.text("kubeconfig").map_or_else(|| run.join("kubeconfig"), PathBuf::from);
    if let Some(parent) = kubeconfig.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        std::fs::create_dir_all(parent).map_err(|error| format!("make {}: {error}", parent.display()))?;
    }
    let level = if matches.is("debug") { tracing::Level::DEBUG } else { tracing::Level::INFO };
    tracing_subscriber::fmt().with_max_level(level).with_writer(std::io::stderr).with_target(false).init();
    let datastore = datastore(&matches)?;
    let names = matches.text("tls-san").unwrap_or_default();
    let config = Config {
        root: (!matches.is("ephemeral")).then(|| root.join("cluster")),
        datastore,
        listen: SocketAddr::new(address, port),
        kubeconfig: Some(kubeconfig.clone()),
        tokens: matches.text("token-auth-file").map(PathBuf::from),
        names: names.split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect(),
        ..Config::default()
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKERS)
        .enable_all()
        .build()
        .map_err(|error| format!("start threads: {error}"))?;
    runtime.block_on(async {
        let begun = std::time::Instant::now();
        let server = Server::start(config).await.map_err(|error| chain(&error))?;
        tracing::info!(address = %server.address(), kubeconfig = %kubeconfig.display(), after = ?begun.elapsed(), "ready");
        let failed = |error: std::io::Error| format!("listen for signals: {error}");
        let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
        let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        server.stop().await;
        Ok(())
    })
}

/// The etcd to use, if one is named.
fn datastore(matches: &flags::Matches) -> Result<Option<EtcdOptions>, String> {
    matches.text("datastore").map(|endpoints| etcd(matches, endpoints)).transpose()
}

/// An etcd by its addresses and the flags about its certificates.
fn etcd(matches: &flags::Matches, endpoints: &str) -> Result<EtcdOptions, String> {
    let read = |flag: &str| match matches.text(flag) {
        None => Ok(None),
        Some(path) => std::fs::read(path).map(Some).map_err(|error| format!("--{flag} {path}: {error}")),
    };
    let mut options = EtcdOptions::new(endpoints.split(',').filter(|endpoint| !endpoint.is_empty()));
    let identity = match (read("datastore-certfile")?, read("datastore-keyfile")?) {
        (Some(certificate), Some(key)) => Some((certificate, key)),
        (None, None) => None,
        _ => return Err("--datastore-certfile and --datastore-keyfile go together".into()),
    };
    options.tls = match (read("datastore-cafile")?, identity) {
        (Some(ca), identity) => Some(Tls { ca, identity, server_name: None }),
        (None, None) => None,
        (None, Some(_)) => return Err("--datastore-certfile needs --datastore-cafile".into()),
    };
    Ok(options)
}

/// An error with its causes.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text += &format!(": {cause}");
        source = cause.source();
    }
    text
}
