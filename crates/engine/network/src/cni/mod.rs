//! Pods' networks by other people's plugins, as the container network interface says (specifications 0.3 to 1.1).
//!
//! * `config` — lists of plugins in a directory, and what each plugin is told (pure)
//! * `result` — what plugins answer (pure)
//! * `run` — one plugin's process, which does not run for ever
//!
//! What a pod was given is kept in one file a pod: the list it was made with and the result, so that taking it away and checking it go
//! by what was, whatever the directory says by then. All calls block.

mod config;
mod result;
mod run;

use std::ffi::OsString;
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use config::Extras;
pub use config::{Bandwidth, DnsSettings, List, PortMapping, parse as parse_list};
pub use result::{addresses, parse as parse_result, refusal};

/// Where configurations and plugins are, as containerd names them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CniConfig {
    pub conf_dir: PathBuf,
    pub bin_dirs: Vec<PathBuf>,
    /// Where it is kept what pods have been given.
    pub state_dir: PathBuf,
    /// How long one plugin may take.
    pub patience: Duration,
}

impl CniConfig {
    /// Less than a node waits for a sandbox: the plugin's silence is told, not the runtime's.
    pub const PATIENCE: Duration = Duration::from_secs(60);
}

/// A pod that is to be on the network.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct CniAttachment {
    /// A plain file name.
    pub id: String,
    /// The file that holds its network namespace.
    pub netns: PathBuf,
    /// In the container: `eth0`.
    pub interface: String,
    /// `K8S_POD_NAME` and its like.
    pub args: Vec<(String, String)>,
    pub ports: Vec<PortMapping>,
    pub bandwidth: Option<Bandwidth>,
    pub dns: Option<DnsSettings>,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CniError {
    #[error("cni plugin not initialized: no networks found in {}", .0.display())]
    NoNetwork(PathBuf),
    #[error("network configuration {}: {problem}", path.display())]
    Config { path: PathBuf, problem: String },
    #[error("failed to find plugin {plugin:?} in path {path:?}")]
    NoPlugin { plugin: String, path: Vec<PathBuf> },
    /// In the plugin's words.
    #[error("plugin type={plugin:?} failed ({command}): {message}")]
    Plugin { plugin: String, command: &'static str, message: String },
    #[error("{what}: {cause}")]
    Io { what: String, cause: String },
}

fn io(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> CniError {
    let what = what.into();
    move |error| CniError::Io { what, cause: error.to_string() }
}

/// What a pod has been given.
#[derive(Debug, Serialize, Deserialize)]
struct Kept {
    attachment: CniAttachment,
    list: List,
    result: Option<Value>,
}

/// The networks of one instance's pods.
#[derive(Debug, Clone)]
pub struct Cni {
    config: CniConfig,
}

impl Cni {
    pub fn new(config: CniConfig) -> Self {
        Self { config }
    }

    /// The network that new pods get: the first configuration by name that can be read.
    fn list(&self) -> Result<List, CniError> {
        let directory = &self.config.conf_dir;
        let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
        let mut files: Vec<PathBuf> =
            entries.map(|entry| entry.path()).filter(|path| config::is_config(path)).collect();
        files.sort();
        let mut problem = None;
        for path in files {
            let read = std::fs::read_to_string(&path).map_err(|error| error.to_string());
            match read.and_then(|text| config::parse(&path, &text)) {
                Ok(list) => return Ok(list),
                // The next one may be good, as with others; if none is, this is why.
                Err(fault) => problem = problem.or(Some(CniError::Config { path, problem: fault })),
            }
        }
        Err(problem.unwrap_or_else(|| CniError::NoNetwork(directory.clone())))
    }

    /// Whether pods can get a network, asking plugins that can tell.
    pub fn status(&self) -> Result<(), CniError> {
        let list = self.list()?;
        for plugin in &list.plugins {
            self.find(&plugin.kind)?;
            if list.knows_status() {
                let input = plugin.input(&list, &Extras::default(), None);
                self.run(&plugin.kind, "STATUS", &CniAttachment::default(), &input)?;
            }
        }
        Ok(())
    }

    /// Gives a pod its interface; its addresses. A pod that has it already is told what it has.
    pub fn add(&self, attachment: &CniAttachment) -> Result<Vec<IpAddr>, CniError> {
        if let Some(Kept { result: Some(result), .. }) = self.kept(&attachment.id) {
            return result::addresses(&result)
                .map_err(|problem| CniError::Config { path: self.file(&attachment.id), problem });
        }
        let list = self.list()?;
        // Nothing is begun that could be neither finished nor undone.
        list.plugins.iter().try_for_each(|plugin| self.find(&plugin.kind).map(drop))?;
        let mut kept = Kept { attachment: attachment.clone(), list, result: None };
        // Before anything is made: a crash leaves what is to be taken away.
        self.keep(&kept)?;
        match self.add_all(&kept) {
            Ok((result, addresses)) => {
                kept.result = Some(result);
                self.keep(&kept)?;
                Ok(addresses)
            }
            Err(error) => {
                // What some plugins have done by then.
                if let Err(undone) = self.del_all(&kept) {
                    return Err(CniError::Io {
                        what: error.to_string(),
                        cause: format!("and could not be undone: {undone}"),
                    });
                }
                self.forget(&attachment.id);
                Err(error)
            }
        }
    }

    fn add_all(&self, kept: &Kept) -> Result<(Value, Vec<IpAddr>), CniError> {
        let extras = Extras::of(&kept.attachment);
        let mut result = None;
        for plugin in &kept.list.plugins {
            let input = plugin.input(&kept.list, &extras, result.as_ref());
            let answer = self.run(&plugin.kind, "ADD", &kept.attachment, &input)?;
            let failed = |message: String| CniError::Plugin { plugin: plugin.kind.clone(), command: "ADD", message };
            result = Some(result::parse(&answer, &kept.list.version).map_err(failed)?);
        }
        let result = result.unwrap_or_default();
        let addresses = result::addresses(&result).map_err(|message| {
            let plugin = kept.list.plugins.last().map(|plugin| plugin.kind.clone()).unwrap_or_default();
            CniError::Plugin { plugin, command: "ADD", message }
        })?;
        Ok((result, addresses))
    }

    /// Whether a pod still has what it was given, as far as its plugins can tell.
    pub fn check(&self, id: &str) -> Result<(), CniError> {
        let Some(kept) = self.kept(id).filter(|kept| kept.list.knows_check()) else { return Ok(()) };
        let extras = Extras::of(&kept.attachment);
        for plugin in &kept.list.plugins {
            let input = plugin.input(&kept.list, &extras, kept.result.as_ref());
            self.run(&plugin.kind, "CHECK", &kept.attachment, &input)?;
        }
        Ok(())
    }

    /// Takes back what a pod was given; no error where it was given nothing.
    pub fn del(&self, id: &str) -> Result<(), CniError> {
        if let Some(kept) = self.kept(id) {
            self.del_all(&kept)?;
            self.forget(id);
        }
        Ok(())
    }

    fn del_all(&self, kept: &Kept) -> Result<(), CniError> {
        let extras = Extras::of(&kept.attachment);
        for plugin in kept.list.plugins.iter().rev() {
            let previous = kept.result.as_ref().filter(|_| kept.list.knows_check());
            let input = plugin.input(&kept.list, &extras, previous);
            self.run(&plugin.kind, "DEL", &kept.attachment, &input)?;
        }
        Ok(())
    }

    /// Pods that have been given something.
    pub fn attached(&self) -> Vec<String> {
        let entries = std::fs::read_dir(&self.config.state_dir).into_iter().flatten().flatten();
        let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
        names.filter(|name| !name.ends_with(".new")).collect()
    }

    fn file(&self, id: &str) -> PathBuf {
        self.config.state_dir.join(id)
    }

    fn kept(&self, id: &str) -> Option<Kept> {
        serde_json::from_slice(&std::fs::read(self.file(id)).ok()?).ok()
    }

    fn keep(&self, kept: &Kept) -> Result<(), CniError> {
        let path = self.file(&kept.attachment.id);
        let what = format!("write {}", path.display());
        let text =
            serde_json::to_vec(kept).map_err(|error| CniError::Io { what: what.clone(), cause: error.to_string() })?;
        let new = path.with_extension("new");
        std::fs::create_dir_all(&self.config.state_dir).map_err(io(&what))?;
        std::fs::write(&new, text).and_then(|()| std::fs::rename(&new, &path)).map_err(io(what))
    }

    fn forget(&self, id: &str) {
        let _ = std::fs::remove_file(self.file(id));
    }

    fn find(&self, plugin: &str) -> Result<PathBuf, CniError> {
        let missing = || CniError::NoPlugin { plugin: plugin.to_owned(), path: self.config.bin_dirs.clone() };
        // A configuration names a program, not a way to one.
        if plugin.is_empty() || plugin.contains('/') {
            return Err(missing());
        }
        let is_program = |path: &Path| {
            std::fs::metadata(path).is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
        };
        let found = self.config.bin_dirs.iter().map(|directory| directory.join(plugin)).find(|path| is_program(path));
        found.ok_or_else(missing)
    }

    /// Runs one plugin on this machine; it finds the pod by its namespace's file. What it prints.
    fn run(
        &self,
        plugin: &str,
        command: &'static str,
        attachment: &CniAttachment,
        input: &Value,
    ) -> Result<String, CniError> {
        let program = self.find(plugin)?;
        let failed = |message: String| CniError::Plugin { plugin: plugin.to_owned(), command, message };
        let path: Vec<OsString> = self.config.bin_dirs.iter().map(|directory| directory.clone().into()).collect();
        let mut child = Command::new(&program);
        child
            .env("CNI_COMMAND", command)
            .env("CNI_PATH", path.join(&OsString::from(":")))
            .env("CNI_CONTAINERID", &attachment.id)
            .env("CNI_NETNS", &attachment.netns)
            .env("CNI_IFNAME", &attachment.interface)
            .env("CNI_ARGS", config::args(&attachment.args));
        let ended = run::run(child, input.to_string().as_bytes(), self.config.patience);
        let ended = ended.map_err(|why| failed(format!("{}: {why}", program.display())))?;
        if ended.status.success() {
            return Ok(ended.said);
        }
        Err(failed(
            result::refusal(&ended.said).unwrap_or_else(|| format!("{}: {}", ended.status, ended.errors.trim())),
        ))
    }
}
