//! The workload's JSON: `Config` of a container, the body of create, exec's body.
//!
//! Every field is an `Option`: clients leave fields out or send `null`, and Go reads both as the zero value.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize};

use super::host::HostConfig;
use super::network::{EndpointSettings, NetworkingConfig};
use super::{Empty, console_size, none_if_empty, set, unset};
use crate::http::error::{ApiError, ApiResult};

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct Config {
    hostname: Option<String>,
    domainname: Option<String>,
    user: Option<String>,
    attach_stdin: Option<bool>,
    attach_stdout: Option<bool>,
    attach_stderr: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    exposed_ports: Option<BTreeMap<String, Empty>>,
    tty: Option<bool>,
    open_stdin: Option<bool>,
    stdin_once: Option<bool>,
    env: Option<Vec<String>>,
    #[serde(deserialize_with = "words")]
    cmd: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    healthcheck: Option<Healthcheck>,
    image: Option<String>,
    volumes: Option<BTreeMap<String, Empty>>,
    working_dir: Option<String>,
    #[serde(deserialize_with = "words")]
    entrypoint: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    network_disabled: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    mac_address: Option<String>,
    on_build: Option<Vec<String>>,
    labels: Option<BTreeMap<String, String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    stop_signal: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    stop_timeout: Option<i64>,
    #[serde(deserialize_with = "words", skip_serializing_if = "Option::is_none")]
    shell: Option<Vec<String>>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct Healthcheck {
    #[serde(skip_serializing_if = "Option::is_none")]
    test: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    interval: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    timeout: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    start_period: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    start_interval: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    retries: Option<i64>,
}

/// The body of create: the workload's fields beside the host's and the network's.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct CreateBody {
    #[serde(flatten)]
    config: Config,
    #[serde(rename = "HostConfig")]
    host: Option<HostConfig>,
    #[serde(rename = "NetworkingConfig")]
    networking: Option<NetworkingConfig>,
}

impl Config {
    /// Whether nothing was said: only an image, a command or the like makes a container.
    fn is_empty(&self) -> bool {
        serde_json::to_value(self)
            .is_ok_and(|said| said.as_object().is_some_and(|said| said.values().all(serde_json::Value::is_null)))
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct ExecBody {
    user: Option<String>,
    privileged: Option<bool>,
    tty: Option<bool>,
    console_size: Option<[u32; 2]>,
    attach_stdin: Option<bool>,
    attach_stdout: Option<bool>,
    attach_stderr: Option<bool>,
    detach_keys: Option<String>,
    env: Option<Vec<String>>,
    working_dir: Option<String>,
    #[serde(deserialize_with = "words")]
    cmd: Option<Vec<String>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct ExecStartBody {
    detach: Option<bool>,
    tty: Option<bool>,
    console_size: Option<[u32; 2]>,
}

/// A list of words; a lone string is a list of one (Docker's `StrSlice`).
pub(crate) fn words<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Vec<String>>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Words {
        One(String),
        Many(Vec<String>),
    }
    Ok(Option::<Words>::deserialize(deserializer)?.map(|words| match words {
        Words::One(word) => vec![word],
        Words::Many(words) => words,
    }))
}

impl CreateBody {
    pub(crate) fn into_request(
        self,
        name: Option<String>,
        platform: Option<String>,
    ) -> ApiResult<engine::CreateRequest> {
        let nothing_said = self.config.is_empty();
        let networks = self.networking.unwrap_or_default().endpoints_config.unwrap_or_default();
        let request = engine::CreateRequest {
            name,
            platform,
            config: self.config.into_model()?,
            host: self.host.unwrap_or_default().into_model()?,
            networks: networks
                .into_iter()
                .map(|(name, endpoint)| (name, endpoint.map(EndpointSettings::into_model).unwrap_or_default()))
                .collect(),
        };
        if nothing_said {
            return Err(ApiError::invalid("config cannot be empty in order to create a container"));
        }
        Ok(request)
    }
}

impl Config {
    pub(crate) fn into_model(self) -> ApiResult<engine::ContainerConfig> {
        let keys = |map: Option<BTreeMap<String, Empty>>| map.unwrap_or_default().into_keys().collect::<BTreeSet<_>>();
        Ok(engine::ContainerConfig {
            hostname: unset(self.hostname),
            domainname: unset(self.domainname),
            user: unset(self.user),
            attach_stdin: unset(self.attach_stdin),
            attach_stdout: unset(self.attach_stdout),
            attach_stderr: unset(self.attach_stderr),
            tty: unset(self.tty),
            open_stdin: unset(self.open_stdin),
            stdin_once: unset(self.stdin_once),
            env: unset(self.env),
            cmd: self.cmd,
            entrypoint: self.entrypoint,
            working_dir: unset(self.working_dir),
            image: unset(self.image),
            labels: unset(self.labels),
            volumes: keys(self.volumes),
            exposed_ports: keys(self.exposed_ports),
            stop_signal: self.stop_signal.filter(|signal| !signal.is_empty()),
            stop_timeout_secs: self.stop_timeout,
            shell: self.shell,
            healthcheck: self.healthcheck.map(Healthcheck::into_model).transpose()?,
            on_build: unset(self.on_build),
            network_disabled: unset(self.network_disabled),
            mac_address: unset(self.mac_address),
        })
    }

    pub(crate) fn from_model(config: engine::ContainerConfig) -> Self {
        let keys = |set: BTreeSet<String>| set.into_iter().map(|key| (key, Empty {})).collect::<BTreeMap<_, _>>();
        Self {
            hostname: set(config.hostname),
            domainname: set(config.domainname),
            user: set(config.user),
            attach_stdin: set(config.attach_stdin),
            attach_stdout: set(config.attach_stdout),
            attach_stderr: set(config.attach_stderr),
            exposed_ports: none_if_empty(keys(config.exposed_ports)),
            tty: set(config.tty),
            open_stdin: set(config.open_stdin),
            stdin_once: set(config.stdin_once),
            env: set(config.env),
            cmd: config.cmd,
            healthcheck: config.healthcheck.map(Healthcheck::from_model),
            image: set(config.image),
            volumes: none_if_empty(keys(config.volumes)),
            working_dir: set(config.working_dir),
            entrypoint: config.entrypoint,
            network_disabled: Some(config.network_disabled).filter(|disabled| *disabled),
            mac_address: none_if_empty(config.mac_address),
            on_build: none_if_empty(config.on_build),
            labels: set(config.labels),
            stop_signal: config.stop_signal,
            stop_timeout: config.stop_timeout_secs,
            shell: config.shell.and_then(none_if_empty),
        }
    }
}

impl Healthcheck {
    fn into_model(self) -> ApiResult<engine::Healthcheck> {
        let time = |name: &str, nanos: Option<i64>| match nanos.unwrap_or_default() {
            // Docker takes none between nothing and a millisecond: a probe in microseconds is a mistake of units.
            0 => Ok(Duration::ZERO),
            nanos if nanos >= 1_000_000 => Ok(Duration::from_nanos(nanos as u64)),
            _ => Err(ApiError::invalid(format!("{name} in Healthcheck cannot be less than 1ms"))),
        };
        let retries = self.retries.unwrap_or_default();
        Ok(engine::Healthcheck {
            test: unset(self.test),
            interval: time("Interval", self.interval)?,
            timeout: time("Timeout", self.timeout)?,
            start_period: time("StartPeriod", self.start_period)?,
            start_interval: time("StartInterval", self.start_interval)?,
            retries: u32::try_from(retries)
                .map_err(|_| ApiError::invalid(format!("Retries in Healthcheck cannot be {retries}")))?,
        })
    }

    pub(crate) fn from_model(check: engine::Healthcheck) -> Self {
        let nanos =
            |time: Duration| Some(i64::try_from(time.as_nanos()).unwrap_or(i64::MAX)).filter(|nanos| *nanos != 0);
        Self {
            test: none_if_empty(check.test),
            interval: nanos(check.interval),
            timeout: nanos(check.timeout),
            start_period: nanos(check.start_period),
            start_interval: nanos(check.start_interval),
            retries: Some(check.retries.into()).filter(|retries| *retries != 0),
        }
    }
}

impl ExecBody {
    pub(crate) fn into_model(self) -> ApiResult<engine::ExecConfig> {
        let cmd = unset(self.cmd);
        if cmd.is_empty() {
            return Err(ApiError::invalid("No exec command specified"));
        }
        Ok(engine::ExecConfig {
            cmd,
            user: unset(self.user),
            env: unset(self.env),
            working_dir: unset(self.working_dir),
            tty: unset(self.tty),
            attach_stdin: unset(self.attach_stdin),
            attach_stdout: unset(self.attach_stdout),
            attach_stderr: unset(self.attach_stderr),
            privileged: unset(self.privileged),
            console_size: console_size(self.console_size)?,
            detach_keys: unset(self.detach_keys),
        })
    }
}

impl ExecStartBody {
    pub(crate) fn into_model(self) -> ApiResult<engine::ExecStart> {
        Ok(engine::ExecStart {
            detach: unset(self.detach),
            tty: unset(self.tty),
            console_size: console_size(self.console_size)?,
        })
    }
}
