//! Drivers of volumes that are programs of others: Docker's legacy plugins, which lie on this machine as sockets or as files
//! that name an address, and answer JSON over HTTP.
//!
//! * `place` — which file is which plugin
//! * `call` — one question and its answer, within a deadline
//!
//! Every call asks the plugin anew: what it knows it may have from somewhere else. What was asked of it and must be taken
//! back (its mounts) is `mounting`'s business.

mod call;
mod place;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Mutex;
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json};
use vocab::ErrorKind;

use super::locked;
use crate::{Error, Result};
use call::Failed;
pub(crate) use place::is_name;

/// Where plugins are looked for, and how long they may take.
#[derive(Debug, Clone)]
pub struct PluginConfig {
    /// Those of an earlier one count.
    pub dirs: Vec<PathBuf>,
    /// For one answer.
    pub patience: Duration,
}

impl Default for PluginConfig {
    fn default() -> Self {
        Self {
            dirs: ["/run/docker/plugins", "/etc/docker/plugins", "/usr/lib/docker/plugins"].map(Into::into).into(),
            patience: Duration::from_secs(120),
        }
    }
}

#[derive(Debug)]
pub(crate) struct Plugins {
    config: PluginConfig,
    /// Addresses that have said what they are.
    active: Mutex<BTreeSet<String>>,
}

/// A volume as its plugin tells of it.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct Told {
    pub(crate) name: String,
    pub(crate) mountpoint: Option<PathBuf>,
    pub(crate) created_at: Option<String>,
    pub(crate) status: Option<BTreeMap<String, Value>>,
}

/// Every answer is one of these, with what the question was for.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Reply {
    err: Option<String>,
    mountpoint: Option<PathBuf>,
    volume: Option<Told>,
    volumes: Option<Vec<Told>>,
    capabilities: Option<Capabilities>,
    implements: Option<Vec<String>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Capabilities {
    scope: String,
}

/// Why a plugin did not do what it was asked.
#[derive(Debug)]
pub(crate) enum Trouble {
    /// It said so.
    Refused(Error),
    /// What it did is not known.
    Lost(Error),
}

impl From<Trouble> for Error {
    fn from(trouble: Trouble) -> Self {
        let (Trouble::Refused(error) | Trouble::Lost(error)) = trouble;
        error
    }
}

impl Plugins {
    pub(crate) fn new(config: PluginConfig) -> Self {
        Self { config, active: Mutex::default() }
    }

    /// Names of what is there, whether it answers or not.
    pub(crate) fn names(&self) -> BTreeSet<String> {
        place::all(&self.config.dirs)
    }

    pub(crate) fn create(&self, driver: &str, name: &str, options: &BTreeMap<String, String>) -> Result<(), Trouble> {
        let options = if options.is_empty() { Value::Null } else { json!(options) };
        self.ask(driver, "Create", &json!({ "Name": name, "Opts": options })).map(drop)
    }

    pub(crate) fn remove(&self, driver: &str, name: &str) -> Result<(), Trouble> {
        self.ask(driver, "Remove", &json!({ "Name": name })).map(drop)
    }

    /// `user` is a name for this one use: the same goes with the unmounting.
    pub(crate) fn mount(&self, driver: &str, name: &str, user: &str) -> Result<PathBuf, Trouble> {
        let place = self.ask(driver, "Mount", &json!({ "Name": name, "ID": user }))?.mountpoint.unwrap_or_default();
        if place.is_absolute() && place.is_dir() {
            return Ok(place);
        }
        Err(Trouble::Lost(failed(driver, "Mount", format!("it mounted at {place:?}, which is no directory"))))
    }

    pub(crate) fn unmount(&self, driver: &str, name: &str, user: &str) -> Result<(), Trouble> {
        self.ask(driver, "Unmount", &json!({ "Name": name, "ID": user })).map(drop)
    }

    /// What the plugin says of a volume. Some tell where it is only when they are asked for that.
    pub(crate) fn get(&self, driver: &str, name: &str) -> Result<Told, Trouble> {
        let question = json!({ "Name": name });
        let mut told = self.ask(driver, "Get", &question)?.volume.unwrap_or_default();
        if told.name != name {
            return Err(Trouble::Refused(failed(driver, "Get", format!("it knows no volume {name}"))));
        }
        if told.mountpoint.as_ref().is_none_or(|place| place.as_os_str().is_empty())
            && let Ok(reply) = self.ask(driver, "Path", &question)
        {
            told.mountpoint = reply.mountpoint;
        }
        Ok(told)
    }

    pub(crate) fn list(&self, driver: &str) -> Result<Vec<Told>, Trouble> {
        Ok(self.ask(driver, "List", &json!({}))?.volumes.unwrap_or_default())
    }

    /// `local` where it does not say, as older ones do.
    pub(crate) fn scope(&self, driver: &str) -> String {
        let scope = self.ask(driver, "Capabilities", &json!({})).ok().and_then(|reply| reply.capabilities);
        scope.map(|told| told.scope).filter(|scope| scope == "global").unwrap_or_else(|| "local".into())
    }

    fn ask(&self, driver: &str, what: &str, question: &Value) -> Result<Reply, Trouble> {
        let address = place::find(&self.config.dirs, driver).map_err(Trouble::Refused)?;
        let known = locked(&self.active).contains(&address.to_string());
        if !known {
            let reply = self.send(driver, &address, "Plugin.Activate", &Value::Null)?;
            if !reply.implements.unwrap_or_default().iter().any(|one| one == "VolumeDriver") {
                let why = "it is no driver of volumes";
                return Err(Trouble::Refused(failed(driver, "Activate", why.into())));
            }
            locked(&self.active).insert(address.to_string());
        }
        self.send(driver, &address, &format!("VolumeDriver.{what}"), question)
    }

    fn send(&self, driver: &str, address: &place::Address, path: &str, question: &Value) -> Result<Reply, Trouble> {
        let (what, deadline) = (path.rsplit('.').next().unwrap_or(path), call::Deadline::new(self.config.patience));
        let body = if question.is_null() { String::new() } else { question.to_string() };
        let answer = call::post(address, path, &body, deadline).map_err(|why| {
            // Another one may come at this address.
            locked(&self.active).remove(&address.to_string());
            match why {
                Failed::Unreachable(why) => Trouble::Refused(gone(driver, why)),
                Failed::Broken(why) => Trouble::Lost(gone(driver, why)),
            }
        })?;
        let reply = serde_json::from_slice::<Reply>(&answer.body);
        let said = reply.as_ref().ok().and_then(|reply| reply.err.clone()).filter(|said| !said.is_empty());
        match (answer.status, reply) {
            (_, Ok(_)) if said.is_some() => Err(Trouble::Refused(failed(driver, what, said.unwrap_or_default()))),
            (200, Ok(reply)) => Ok(reply),
            (200, _) => Err(Trouble::Lost(failed(driver, what, "its answer cannot be read".into()))),
            (status, _) => {
                let said = String::from_utf8_lossy(&answer.body).trim().chars().take(200).collect::<String>();
                Err(Trouble::Refused(failed(driver, what, format!("{status} {said}"))))
            }
        }
    }
}

fn failed(driver: &str, what: &str, message: String) -> Error {
    let what = format!("volume plugin {driver}: VolumeDriver.{what}");
    Error::Other { what, kind: ErrorKind::Internal, message }
}

fn gone(driver: &str, message: String) -> Error {
    Error::Other { what: format!("volume plugin {driver} does not answer"), kind: ErrorKind::Unavailable, message }
}
