//! Images: lists, inspect, history, and the progress messages of load and import.

use std::collections::BTreeMap;

use serde::Serialize;

use super::config::Healthcheck;
use super::container::GraphDriver;
use super::{Empty, none_if_empty, time};
use crate::http::version::ApiVersion;

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Summary {
    containers: i64,
    created: i64,
    id: String,
    labels: Option<BTreeMap<String, String>>,
    parent_id: String,
    repo_digests: Option<Vec<String>>,
    repo_tags: Vec<String>,
    shared_size: i64,
    size: u64,
    /// Equal to the size, and gone since 1.44.
    #[serde(skip_serializing_if = "Option::is_none")]
    virtual_size: Option<u64>,
}

impl Summary {
    /// `counted`: the number of containers is shown by `system df` alone, -1 elsewhere.
    pub(crate) fn from_model(summary: engine::ImageSummary, version: ApiVersion, counted: bool) -> Self {
        Self {
            containers: if counted { i64::try_from(summary.containers).unwrap_or(i64::MAX) } else { -1 },
            created: summary.created_at.map_or(0, |at| at.as_second()),
            id: summary.id.to_string(),
            labels: none_if_empty(summary.labels),
            parent_id: summary.parent.map(|parent| parent.to_string()).unwrap_or_default(),
            repo_digests: none_if_empty(summary.digests),
            repo_tags: summary.tags,
            shared_size: summary.shared_size_bytes.map_or(-1, |size| i64::try_from(size).unwrap_or(i64::MAX)),
            size: summary.size_bytes,
            virtual_size: (version < ApiVersion(44)).then_some(summary.size_bytes),
        }
    }
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Inspect {
    id: String,
    repo_tags: Vec<String>,
    repo_digests: Vec<String>,
    parent: String,
    comment: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    created: Option<String>,
    docker_version: &'static str,
    author: String,
    config: ImageConfig,
    architecture: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    variant: String,
    os: String,
    size: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    virtual_size: Option<u64>,
    graph_driver: GraphDriver,
    #[serde(rename = "RootFS")]
    root_fs: RootFs,
    metadata: Metadata,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct RootFs {
    r#type: &'static str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    layers: Vec<String>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Metadata {
    last_tag_time: String,
}

#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "PascalCase")]
struct ImageConfig {
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    of_containers: Option<OfContainers>,
    user: String,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    exposed_ports: BTreeMap<String, Empty>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    env: Vec<String>,
    cmd: Option<Vec<String>>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    args_escaped: bool,
    entrypoint: Option<Vec<String>>,
    volumes: Option<BTreeMap<String, Empty>>,
    working_dir: String,
    labels: Option<BTreeMap<String, String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    stop_signal: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    healthcheck: Option<Healthcheck>,
    on_build: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    shell: Option<Vec<String>>,
}

/// Fields that an image never sets; clients before 1.50 expect them.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "PascalCase")]
struct OfContainers {
    hostname: &'static str,
    domainname: &'static str,
    attach_stdin: bool,
    attach_stdout: bool,
    attach_stderr: bool,
    tty: bool,
    open_stdin: bool,
    stdin_once: bool,
    image: &'static str,
}

impl Inspect {
    pub(crate) fn from_model(view: engine::ImageView, version: ApiVersion) -> Self {
        let keys = |set: std::collections::BTreeSet<String>| set.into_iter().map(|key| (key, Empty {})).collect();
        let config = view.config;
        Self {
            graph_driver: GraphDriver::from_model("overlay2", &view.lowers, None),
            id: view.id.to_string(),
            repo_tags: view.tags,
            repo_digests: view.digests,
            parent: view.parent.map(|parent| parent.to_string()).unwrap_or_default(),
            comment: view.comment,
            created: view.created_at.map(time::nano),
            docker_version: "",
            author: view.author,
            config: ImageConfig {
                of_containers: (version < ApiVersion(50)).then(OfContainers::default),
                user: config.user,
                exposed_ports: keys(config.exposed_ports),
                env: config.env,
                cmd: config.cmd,
                args_escaped: config.args_escaped,
                entrypoint: config.entrypoint,
                volumes: none_if_empty(keys(config.volumes)),
                working_dir: config.working_dir,
                labels: none_if_empty(config.labels),
                stop_signal: config.stop_signal,
                healthcheck: config.healthcheck.map(Healthcheck::from_model),
                on_build: none_if_empty(config.on_build),
                shell: config.shell.and_then(none_if_empty),
            },
            architecture: view.architecture,
            variant: view.variant,
            os: view.os,
            size: view.size_bytes,
            virtual_size: (version < ApiVersion(44)).then_some(view.size_bytes),
            root_fs: RootFs { r#type: "layers", layers: view.layers.iter().map(ToString::to_string).collect() },
            metadata: Metadata { last_tag_time: time::nano_or_never(view.tagged_at) },
        }
    }
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct History {
    id: String,
    created: i64,
    created_by: String,
    tags: Option<Vec<String>>,
    size: u64,
    comment: String,
}

impl History {
    pub(crate) fn from_model(entry: engine::HistoryEntry) -> Self {
        Self {
            id: entry.id.map_or_else(|| "<missing>".to_owned(), |id| id.to_string()),
            created: entry.created_at.map_or(0, |at| at.as_second()),
            created_by: entry.created_by,
            tags: none_if_empty(entry.tags),
            size: entry.size_bytes,
            comment: entry.comment,
        }
    }
}

#[derive(Debug, Serialize)]
pub(crate) enum Removal {
    Untagged(String),
    Deleted(String),
}

impl Removal {
    pub(crate) fn from_model(removal: engine::ImageRemoval) -> Self {
        match removal {
            engine::ImageRemoval::Untagged(name) => Self::Untagged(name),
            engine::ImageRemoval::Deleted(id) => Self::Deleted(id.to_string()),
        }
    }
}

/// One line of a progress stream.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Progress {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) stream: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) status: Option<String>,
    #[serde(rename = "progressDetail", skip_serializing_if = "Option::is_none")]
    pub(crate) progress_detail: Option<ProgressDetail>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) progress: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) id: Option<String>,
    /// For programs: what a push made.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) aux: Option<serde_json::Value>,
    #[serde(rename = "errorDetail", skip_serializing_if = "Option::is_none")]
    pub(crate) error_detail: Option<ErrorDetail>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) error: Option<String>,
}

#[derive(Debug, Default, Serialize)]
pub(crate) struct ProgressDetail {
    #[serde(skip_serializing_if = "is_zero")]
    pub(crate) current: u64,
    #[serde(skip_serializing_if = "is_zero")]
    pub(crate) total: u64,
}

#[derive(Debug, Default, Serialize)]
pub(crate) struct ErrorDetail {
    pub(crate) message: String,
}

fn is_zero(value: &u64) -> bool {
    *value == 0
}

impl Progress {
    pub(crate) fn stream(text: String) -> Self {
        Self { stream: Some(text), ..Self::default() }
    }

    pub(crate) fn status(text: String) -> Self {
        Self { status: Some(text), ..Self::default() }
    }

    /// An error after the answer has begun: the status line is gone, the stream must say it.
    pub(crate) fn error(message: String) -> Self {
        Self { error_detail: Some(ErrorDetail { message: message.clone() }), error: Some(message), ..Self::default() }
    }

    pub(crate) fn from_registry(report: engine::RegistryReport) -> Self {
        match report {
            engine::RegistryReport::Status(text) => Self::status(text),
            engine::RegistryReport::Step { id, status, bytes } => {
                let (current, total) = bytes.unwrap_or_default();
                // What names the whole rather than a layer has no detail.
                let plain = bytes.is_none() && status.starts_with("Pulling from");
                Self {
                    status: Some(status),
                    progress_detail: (!plain).then_some(ProgressDetail { current, total }),
                    progress: bytes.map(|(current, total)| bar(current, total)),
                    id: Some(id),
                    ..Self::default()
                }
            }
            engine::RegistryReport::Pushed { tag, digest, bytes } => Self {
                progress_detail: Some(ProgressDetail::default()),
                aux: Some(serde_json::json!({"Tag": tag, "Digest": digest.to_string(), "Size": bytes})),
                ..Self::default()
            },
        }
    }

    pub(crate) fn from_load(progress: engine::LoadProgress) -> Self {
        match progress {
            engine::LoadProgress::Layer { id, current, total } => Self {
                status: Some("Loading layer".into()),
                progress_detail: Some(ProgressDetail { current, total }),
                progress: Some(bar(current, total)),
                id: Some(id),
                ..Self::default()
            },
            engine::LoadProgress::Tagged { reference, .. } => Self::stream(format!("Loaded image: {reference}\n")),
            engine::LoadProgress::Loaded { id } => Self::stream(format!("Loaded image ID: {id}\n")),
        }
    }
}

/// The bar that clients before `progressDetail` printed as it came: `[=====>   ]  1.2MB/3MB`.
fn bar(current: u64, total: u64) -> String {
    const WIDTH: u64 = 50;
    if total == 0 {
        return format!("{:>8}", bytes(current));
    }
    let done = (current.min(total) as u128 * u128::from(WIDTH) / u128::from(total)) as usize;
    let arrow = if done < WIDTH as usize { ">" } else { "" };
    format!(
        "[{:<width$}] {:>8}/{}",
        format!("{}{arrow}", "=".repeat(done)),
        bytes(current),
        bytes(total),
        width = WIDTH as usize
    )
}

/// A size with four significant digits and a decimal unit, as Go's `units.HumanSize` prints it.
fn bytes(size: u64) -> String {
    let mut value = size as f64;
    for unit in ["B", "kB", "MB", "GB", "TB"] {
        if value < 1000.0 {
            let digits = format!("{value:.3}");
            let digits = digits.get(..5).unwrap_or(&digits).trim_end_matches('0').trim_end_matches('.');
            return format!("{digits}{unit}");
        }
        value /= 1000.0;
    }
    format!("{value:.0}PB")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_bars_read_as_in_docker() {
        for (size, text) in [
            (0, "0B"),
            (512, "512B"),
            (1024, "1.024kB"),
            (4_266_496, "4.266MB"),
            (900_000_000, "900MB"),
            (100_000, "100kB"),
        ] {
            assert_eq!(bytes(size), text);
        }
        assert_eq!(bar(50, 100), format!("[{}>{}]      50B/100B", "=".repeat(25), " ".repeat(24)));
        assert_eq!(bar(100, 100), format!("[{}]     100B/100B", "=".repeat(50)));
    }

    #[test]
    fn progress_lines_carry_what_is_known() {
        let line = |progress| serde_json::to_string(&progress).unwrap();
        assert_eq!(line(Progress::status("x".into())), r#"{"status":"x"}"#);
        assert_eq!(line(Progress::error("no".into())), r#"{"errorDetail":{"message":"no"},"error":"no"}"#);
        assert_eq!(
            line(Progress::from_load(engine::LoadProgress::Tagged {
                reference: "a:b".into(),
                id: vocab::Digest::from_sha256([0; 32])
            })),
            r#"{"stream":"Loaded image: a:b\n"}"#
        );
    }
}
