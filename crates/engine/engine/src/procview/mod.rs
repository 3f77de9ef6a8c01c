//! `/proc` and `/sys` as a limited container should see them: files in the run directory, bound over the kernel's own, that
//! tell the container's limits and use. See docs/decisions/0008.
//!
//! They are plain files, written at the start, at an update and every few seconds: reading one never waits for anybody, also
//! while the engine is away (then the figures stand still). A container without a limit sees the host's files, which tell
//! the truth about it.
//!
//! * `render` — the files' contents, pure
//! * here — who gets them, and when they are written

mod render;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::time::Duration;

use crate::core::{Container, Inner, blocking};
use crate::{ContainerId, Error, HostConfig, Result, Status};
use render::{Load, Seen};

/// How often the figures are brought up to date.
const EVERY: Duration = Duration::from_secs(5);
/// `auto` (default), `on`, `off`.
pub(crate) const SWITCH: &str = "io.knarr.proc-view";

/// Where each file goes in the container.
const PLACES: [(&str, &str); 8] = [
    ("meminfo", "/proc/meminfo"),
    ("cpuinfo", "/proc/cpuinfo"),
    ("stat", "/proc/stat"),
    ("uptime", "/proc/uptime"),
    ("loadavg", "/proc/loadavg"),
    ("swaps", "/proc/swaps"),
    ("diskstats", "/proc/diskstats"),
    ("online", "/sys/devices/system/cpu/online"),
];

/// The loads of running containers, by id: averages need a memory.
pub(crate) type Loads = std::sync::Mutex<BTreeMap<ContainerId, Load>>;

/// Whether a container gets files of its own.
pub(crate) fn is_wanted(host: &HostConfig) -> Result<bool> {
    let resources = &host.resources;
    let limited = resources.memory_bytes > 0
        || resources.nano_cpus > 0
        || resources.cpu_quota_micros > 0
        || !resources.cpuset_cpus.is_empty();
    match host.annotations.get(SWITCH).map(String::as_str) {
        None | Some("" | "auto") => Ok(limited),
        Some("on") => Ok(true),
        Some("off") => Ok(false),
        Some(other) => {
            Err(Error::Invalid(format!("annotation {SWITCH}: {other:?} is none of \"auto\", \"on\" and \"off\"")))
        }
    }
}

impl Inner {
    pub(crate) fn views_dir(&self) -> PathBuf {
        self.config.run.join("view")
    }

    /// Makes the container's files before its start: what is to be bound where, nothing if it gets none. Blocking.
    pub(crate) fn make_view(&self, container: &Container) -> Result<Vec<(PathBuf, &'static str)>> {
        let record = container.record();
        if !is_wanted(&record.host)? {
            return Ok(Vec::new());
        }
        let dir = self.views_dir().join(container.id.to_string());
        let failed = |e: std::io::Error| Error::internal(format_args!("make {}", dir.display()), e);
        std::fs::create_dir_all(&dir).map_err(failed)?;
        self.loads.lock().unwrap_or_else(|e| e.into_inner()).insert(container.id, Load::default());
        self.write_view(container, &dir).map_err(failed)?;
        Ok(PLACES
            .iter()
            .filter(|(_, place)| Path::new(place).exists())
            .map(|(name, place)| (dir.join(name), *place))
            .collect())
    }

    /// Brings a container's files up to date. Blocking.
    pub(crate) fn refresh_view(&self, container: &Container) {
        let dir = self.views_dir().join(container.id.to_string());
        if dir.exists()
            && let Err(error) = self.write_view(container, &dir)
        {
            tracing::debug!(container = %container.id, %error, "cannot bring /proc up to date");
        }
    }

    fn write_view(&self, container: &Container, dir: &Path) -> std::io::Result<()> {
        let record = container.record();
        let stats = self.stats(container).unwrap_or_default();
        let state = container.state();
        let started = state.started_at.filter(|_| state.status.is_running());
        let now = jiff::Timestamp::now();
        let up = started.map_or(Duration::ZERO, |at| Duration::try_from(now.duration_since(at)).unwrap_or_default());
        let host = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let load = {
            let mut loads = self.loads.lock().unwrap_or_else(|e| e.into_inner());
            let load = loads.entry(container.id).or_default();
            load.take(up, stats.cpu.total_nanos);
            *load
        };
        let seen = Seen {
            resources: &record.host.resources,
            host_cpus: self.facts.cpus,
            stats: &stats,
            up,
            started_secs: started.unwrap_or(now).as_second(),
            load,
        };
        let online = seen.cpus();
        let files = [
            ("meminfo", seen.meminfo(&host("/proc/meminfo"))),
            ("cpuinfo", seen.cpuinfo(&host("/proc/cpuinfo"))),
            ("stat", seen.stat(&host("/proc/stat"))),
            ("uptime", seen.uptime()),
            ("loadavg", seen.loadavg()),
            ("swaps", seen.swaps()),
            ("diskstats", seen.diskstats(&host("/proc/diskstats"))),
            ("online", if online > 1 { format!("0-{}\n", online - 1) } else { "0\n".into() }),
        ];
        for (name, text) in files {
            write_in_place(&dir.join(name), &text)?;
        }
        Ok(())
    }

    /// The container has ended. Blocking.
    pub(crate) fn drop_view(&self, id: ContainerId) {
        if self.loads.lock().unwrap_or_else(|e| e.into_inner()).remove(&id).is_some() {
            crate::core::remove_dir(&self.views_dir().join(id.to_string()));
        }
    }

    /// At the start of an engine: takes over the files of what runs, removes the others'. Blocking.
    pub(crate) fn adopt_views(&self) {
        for name in crate::core::names_in(&self.views_dir()) {
            let container = name.parse().ok().and_then(|id| self.registry().get(id));
            match container.filter(|c| matches!(c.status(), Status::Running | Status::Paused)) {
                Some(container) => {
                    self.loads.lock().unwrap_or_else(|e| e.into_inner()).entry(container.id).or_default();
                }
                None => crate::core::remove_dir(&self.views_dir().join(name)),
            }
        }
    }
}

/// The file that is bound in the container is this very one: it is never replaced. One write, so that a reader sees a mix of
/// two versions for an instant at most, and never an empty file.
fn write_in_place(path: &Path, text: &str) -> std::io::Result<()> {
    use std::os::unix::fs::FileExt;
    let file = std::fs::OpenOptions::new().write(true).create(true).truncate(false).open(path)?;
    file.write_all_at(text.as_bytes(), 0)?;
    if file.metadata()?.len() > text.len() as u64 {
        file.set_len(text.len() as u64)?;
    }
    Ok(())
}

/// Brings everybody's files up to date, as long as the engine lives.
pub(crate) async fn keep_fresh(inner: Weak<Inner>) {
    loop {
        tokio::time::sleep(EVERY).await;
        let Some(inner) = inner.upgrade() else { return };
        let ids: Vec<ContainerId> = inner.loads.lock().unwrap_or_else(|e| e.into_inner()).keys().copied().collect();
        if ids.is_empty() {
            continue;
        }
        let fresh: Vec<Arc<Container>> = {
            let registry = inner.registry();
            ids.into_iter().filter_map(|id| registry.get(id)).collect()
        };
        blocking(move || {
            for container in fresh.iter().filter(|c| c.status() == Status::Running) {
                inner.refresh_view(container);
            }
        })
        .await;
    }
}
