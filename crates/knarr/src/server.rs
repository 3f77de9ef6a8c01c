//! `knarr server`: the Kubernetes API of one cluster with its controllers and scheduler, for agents to join.

use std::ffi::OsString;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use apiserver::{Config, Credentials, EtcdOptions, Server, Tls};
use tokio::signal::unix::{SignalKind, signal};

use crate::cloud::{self, Running};
use crate::control::{self, Balancing, Control};
use crate::flags::{self, Flag, switch, text};
use crate::pod_cidr;
use crate::services;
use crate::settings::Settings;

const FLAGS: &[Flag] = &[
    switch("no-node", "Run no pods on this machine"),
    text("host", "Where Docker's API of this machine's node listens (default: the socket in the run directory)")
        .short('H'),
    text("node-name", "Name of this machine as a node (default: the host's name)"),
    text("node-ip", "Address of this machine as a node (default: that of the default route)"),
    text("registries", "File that says how registries are reached (default: KNARR_REGISTRIES)"),
    crate::daemon::CDI_DIRECTORIES,
    crate::daemon::USERNS_REMAP,
    crate::daemon::PUBLISHED_PORTS,
    crate::daemon::PLUGIN_DIRECTORIES,
    crate::daemon::PLUGIN_PATIENCE,
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
    text("datastore-user", "Name to log in to the etcd with"),
    text("datastore-password-file", "File with the password of that user"),
    text("address", "Address to listen on (default: all of this machine)"),
    text(
        "advertise-address",
        "Address by which agents and pods reach this server (default: that of the default route)",
    ),
    text("port", "Port to listen on; 0 takes a free one (default: 6443)"),
    text("kubeconfig", "Where to write the administrator's kubeconfig (default: kubeconfig in the run directory)"),
    text("token-auth-file", "File of static bearer tokens: token,user,uid,\"group1,group2\""),
    text(
        "cluster-cidr",
        "Subnets of which nodes get parts for their pods: one, or one of each family (default: 10.42.0.0/16)",
    ),
    text("service-cidr", "Addresses of services (default: 10.96.0.0/16; with a node: a free range, remembered)"),
    control::LOAD_BALANCER_POOL,
    control::SIGNING_DURATION,
    crate::scheduler_config::FLAG,
    text("tls-san", "More names and addresses for the serving certificate, separated by commas"),
    switch("debug", "Say more about what happens").short('D'),
];

/// Threads that serve the API.
const WORKERS: usize = 2;

/// Gives back what was needed for the start, and for many requests whenever they have become few.
async fn give_memory_back(requests: impl Fn() -> u64) {
    const LOOK: Duration = Duration::from_secs(2);
    const MANY: u64 = 1000;
    const FEW: u64 = 100;
    let (mut given_at, mut last) = (None, requests());
    loop {
        tokio::time::sleep(LOOK).await;
        let now = requests();
        if now.saturating_sub(last) < FEW && given_at.is_none_or(|given_at| now.saturating_sub(given_at) >= MANY) {
            given_at = Some(now);
            let _ = tokio::task::spawn_blocking(linux::memory::give_back).await;
        }
        last = now;
    }
}

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
    text("datastore-user", "Name to log in to the etcd with"),
    text("datastore-password-file", "File with the password of that user"),
];

/// `knarr server backup|restore|move`: a cluster's data while no server holds it.
fn data(task: &str, words: &[OsString]) -> Result<(), String> {
    use apiserver::data::{Place, backup, restore, transfer};
    let words: Vec<String> = words.iter().map(|word| word.to_string_lossy().into_owned()).collect();
    let matches = flags::parse(&[DATA_FLAGS], true, &words).map_err(|error| error.to_string())?;
    if matches.help {
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
        let said = |error: apiserver::data::DataError| crate::failure::chain(&error);
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
    let matches = flags::parse(&[FLAGS, crate::node::FLAGS], true, &words).map_err(|error| error.to_string())?;
    if matches.help {
        let options = flags::help(&[FLAGS, crate::node::FLAGS]);
        println!(
            "Usage:  knarr server [OPTIONS]\n        knarr server backup|restore|move --from WHERE --to WHERE\n\nServe a cluster's Kubernetes API with its controllers and scheduler, for agents to join\n\nOptions:\n{options}"
        );
        return Ok(());
    }
    if !matches.is("no-node") {
        return with_node(&matches);
    }
    let path = |flag: &str, default: &str| PathBuf::from(matches.text(flag).unwrap_or(default));
    let (root, run) = (path("root", "/var/lib/knarr"), path("run", "/run/knarr"));
    let address: IpAddr = match matches.text("address") {
        None => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        Some(text) => text.parse().map_err(|error| format!("--address {text}: {error}"))?,
    };
    let advertise: IpAddr = match matches.text("advertise-address") {
        None if !address.is_unspecified() => address,
        None => cloud::own_address(),
        Some(text) => text.parse().map_err(|error| format!("--advertise-address {text}: {error}"))?,
    };
    let port: u16 = match matches.text("port") {
        None => 6443,
        Some(text) => text.parse().map_err(|error| format!("--port {text}: {error}"))?,
    };
    let cluster = matches.text("cluster-cidr").unwrap_or(pod_cidr::USUAL);
    let cluster = pod_cidr::parse(cluster).map_err(|error| format!("--cluster-cidr {cluster}: {error}"))?;
    let services = match matches.text("service-cidr") {
        None => services::range(services::USUAL)?,
        Some(text) => services::range(text).map_err(|error| format!("--service-cidr {text}: {error}"))?,
    };
    let balancing = Balancing::parse(matches.text("load-balancer-pool"))?;
    let signing_lifetime = control::signing_lifetime(matches.text("cluster-signing-duration"))?;
    let kubeconfig = matches.text("kubeconfig").map_or_else(|| run.join("kubeconfig"), PathBuf::from);
    if let Some(parent) = kubeconfig.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        std::fs::create_dir_all(parent).map_err(|error| format!("make {}: {error}", parent.display()))?;
    }
    crate::daemon::log(matches.is("debug"));
    let datastore = datastore(&matches)?;
    let scheduling = crate::scheduler_config::read(matches.text("scheduler-config"))?;
    let several = datastore.is_some();
    let names = matches.text("tls-san").unwrap_or_default();
    let config = Config {
        root: (!matches.is("ephemeral")).then(|| root.join("cluster")),
        datastore,
        listen: SocketAddr::new(address, port),
        advertise: Some(advertise),
        service_range: services,
        signing_lifetime,
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
        let server = Server::start(config).await.map_err(|error| crate::failure::chain(&error))?;
        tracing::info!(address = %server.address(), kubeconfig = %kubeconfig.display(), after = ?begun.elapsed(), "ready");
        if !matches.is("ephemeral") {
            control::own_token(&server, &root.join("cluster")).await?;
        }
        tokio::spawn(give_memory_back(server.requests()));
        let control = Control::new(&server, cluster, balancing, scheduling);
        control.begin(services::name_server(services)).await?;
        // A file has one server; those that share an etcd agree on who leads.
        let candidate = several.then(control::candidate);
        let parts = match &candidate {
            None => tokio::spawn(control.driver().lean().run()),
            Some(me) => tokio::spawn(control.lead(me.clone())),
        };
        std::fs::create_dir_all(&run).map_err(|error| format!("make {}: {error}", run.display()))?;
        Running::tell(&run, "", Some(server.address()), Some(&kubeconfig))
            .map_err(|error| format!("describe this process in {}: {error}", run.display()))?;
        let failed = |error: std::io::Error| format!("listen for signals: {error}");
        let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
        let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        parts.abort();
        let _ = parts.await;
        if let Some(me) = &candidate {
            control::resign(&server, me).await;
        }
        server.stop().await;
        Running::forget(&run);
        Ok(())
    })
}

/// `knarr up` in the foreground, for agents to join.
fn with_node(matches: &flags::Matches) -> Result<(), String> {
    if matches.is("ephemeral") {
        return Err("--ephemeral goes with --no-node: a node keeps its pods in files".into());
    }
    let root = rustix::process::geteuid().is_root();
    let settings = Settings::new(matches, &|name| std::env::var(name).ok(), root)?;
    let outcome = cloud::run(&settings, matches, IpAddr::V4(Ipv4Addr::UNSPECIFIED));
    outcome.map(drop).map_err(|failure| failure.message)
}

/// The etcd to use, if one is named.
pub fn datastore(matches: &flags::Matches) -> Result<Option<EtcdOptions>, String> {
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
    options.credentials = match (matches.text("datastore-user"), read("datastore-password-file")?) {
        (Some(name), Some(password)) => {
            let password = String::from_utf8(password).map_err(|_| "--datastore-password-file: no text is in it")?;
            Some(Credentials { name: name.to_owned(), password: password.trim_end_matches(['\r', '\n']).to_owned() })
        }
        (None, None) => None,
        _ => return Err("--datastore-user and --datastore-password-file go together".into()),
    };
    Ok(options)
}
