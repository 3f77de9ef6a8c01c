//! The container runtime interface of an engine: where it listens, and which subnet its pods have.

use std::path::{Path, PathBuf};

use engine::Engine;
use kubelet::{CriRuntime, NodeRuntime, RuntimeName};
use network::cni::{Cni, CniConfig};
use pods::EngineRuntime;
use tokio::task::JoinHandle;

use crate::client::http::Host;
use crate::failure::{Failure, chain};
use crate::flags::{Flag, Matches, text};
use crate::settings::Settings;

pub const FLAGS: &[Flag] = &[
    text(
        "cri",
        "Serve Kubernetes' container runtime interface as well: unix:///PATH, or \"default\" for cri.sock in the run directory",
    ),
    text("pod-cidr", "Subnet of pods until a kubelet names another, or one of each family (default: a free one)"),
    CNI_CONF_DIR,
    CNI_BIN_DIR,
];

/// Where plugins of the container network interface are, for whoever runs pods with the engine.
pub const CNI_CONF_DIR: Flag = text(
    "cni-conf-dir",
    "Pods get their network from the first configuration in this directory, as /etc/cni/net.d (default: from the engine)",
);
pub const CNI_BIN_DIR: Flag =
    text("cni-bin-dir", "Directories of network plugins, separated by commas (default: /opt/cni/bin)");

/// For whoever runs pods.
pub const ENDPOINT: Flag = text(
    "container-runtime-endpoint",
    "Run pods with the runtime that listens there, unix:///PATH, as containerd or CRI-O do (default: the engine of this process)",
);

/// The plugins that the command line names; `None`: pods are on the engine's own network.
pub fn plugins(settings: &Settings, matches: &Matches) -> Option<CniConfig> {
    let conf_dir = matches.text("cni-conf-dir")?.into();
    let bin_dirs = matches.text("cni-bin-dir").unwrap_or("/opt/cni/bin");
    let bin_dirs = bin_dirs.split(',').filter(|directory| !directory.is_empty()).map(PathBuf::from).collect();
    Some(CniConfig { conf_dir, bin_dirs, state_dir: settings.run.join("cni"), patience: CniConfig::PATIENCE })
}

/// The engine of this process as the pods' runtime.
fn engine_runtime(engine: &Engine, run: &Path, plugins: Option<CniConfig>) -> EngineRuntime {
    let runtime = EngineRuntime::new(engine.clone(), run);
    match plugins {
        Some(plugins) => runtime.with_cni(Cni::new(plugins)),
        None => runtime,
    }
}

/// What pods of this node run with.
pub async fn node_runtime(
    endpoint: Option<&str>,
    plugins: Option<CniConfig>,
    engine: &Engine,
    settings: &Settings,
) -> Result<(NodeRuntime, RuntimeName), Failure> {
    let Some(endpoint) = endpoint else {
        let runtime = engine_runtime(engine, &settings.run, plugins);
        return Ok((NodeRuntime::Engine(runtime), RuntimeName::default()));
    };
    let failed =
        |error: &dyn std::fmt::Display| Failure::new(format!("--container-runtime-endpoint {endpoint}: {error}"));
    let socket = socket(endpoint).map_err(|error| failed(&error))?;
    let tag = engine::instance_tag(&settings.run);
    let runtime =
        CriRuntime::new(&socket, &crate::node::logs(settings), &settings.run, &tag).map_err(|error| failed(&error))?;
    let name = runtime.name().await.map_err(|error| failed(&error))?;
    tracing::info!(endpoint, name = name.name, version = name.version, "pods run with another runtime");
    Ok((NodeRuntime::Cri(runtime), name))
}

/// What the command line asks for.
#[derive(Debug)]
pub struct Interface {
    socket: PathBuf,
    subnets: Vec<String>,
    plugins: Option<CniConfig>,
}

impl Interface {
    /// `None`: it is not asked for.
    pub fn read(settings: &Settings, matches: &Matches) -> Result<Option<Self>, Failure> {
        let Some(asked) = matches.text("cri") else {
            let alone = FLAGS.iter().find(|flag| matches.given(flag.long));
            return match alone {
                Some(flag) => Err(Failure::new(format!("knarr engine: --{} is for --cri", flag.long))),
                None => Ok(None),
            };
        };
        let socket = match asked {
            "default" => settings.run.join("cri.sock"),
            address => socket(address).map_err(|error| Failure::new(format!("knarr engine: --cri: {error}")))?,
        };
        let subnets = match matches.text("pod-cidr") {
            Some(subnet) => vec![subnet.to_owned()],
            None => (88..96).map(|second| format!("10.{second}.0.0/16")).collect(),
        };
        Ok(Some(Self { socket, subnets, plugins: plugins(settings, matches) }))
    }

    /// Serves it until the task is aborted.
    pub async fn start(self, engine: &Engine, run: &Path) -> Result<JoinHandle<()>, Failure> {
        let failed = |error: &dyn std::error::Error| {
            Failure::new(format!("knarr engine: serve the container runtime interface: {}", chain(error)))
        };
        let version = env!("CARGO_PKG_VERSION").to_owned();
        let config = cri::Config { run: run.to_owned(), subnets: self.subnets, version };
        let server = cri::Server::open(engine_runtime(engine, run, self.plugins), config)
            .await
            .map_err(|error| failed(&error))?;
        let listener = docker_api::bind(&self.socket, None).map_err(|error| failed(&error))?;
        tracing::info!(socket = %self.socket.display(), "serving the container runtime interface");
        Ok(tokio::spawn(async move {
            let _gone = Gone(self.socket);
            server.serve(listener).await;
        }))
    }
}

/// Takes the socket's name away.
struct Gone(PathBuf);

impl Drop for Gone {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// The path in `unix:///PATH`; a bare path is one as well.
pub fn socket(address: &str) -> Result<PathBuf, String> {
    if address.starts_with('/') {
        return Ok(address.into());
    }
    match Host::parse(address) {
        Ok(Host::Unix(path)) if path.is_absolute() => Ok(path),
        Ok(_) => Err(format!("{address:?} is no socket: unix:///PATH")),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_is_a_path() {
        for good in ["unix:///run/x.sock", "/run/x.sock"] {
            assert_eq!(socket(good).unwrap(), Path::new("/run/x.sock"), "{good}");
        }
        for bad in ["tcp://127.0.0.1:1", "x.sock", ""] {
            assert!(socket(bad).is_err(), "{bad}");
        }
    }
}
