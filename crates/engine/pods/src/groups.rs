//! The tree of control groups that pods are in: `<instance>/kubepods[/burstable|/besteffort]/pod<uid>`, on any version of the
//! kernel's interface. All calls block.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;

use linux::cgroup::{Cgroups, Resources};

use crate::runtime::{GroupRequest, Limits, RuntimeError};

/// The kernel's smallest share of processor time.
pub const SHARES_MIN: i64 = 2;
/// Over which quotas of processor time are counted.
pub const PERIOD_MICROS: i64 = 100_000;
const CLASSES: [&str; 3] = ["", "burstable", "besteffort"];
/// How long the kernel may take to let go of an empty group.
const PATIENCE: Duration = Duration::from_secs(2);

/// Groups of one instance.
#[derive(Debug, Clone)]
pub struct Groups {
    /// `/knarr-<tag>/kubepods`.
    root: PathBuf,
}

fn failed(what: &str, path: &Path, error: &linux::cgroup::Error) -> RuntimeError {
    RuntimeError::Failed(format!("{what} the control group {}: {error}", path.display()))
}

fn cgroups() -> Result<&'static Cgroups, RuntimeError> {
    static OPEN: OnceLock<Cgroups> = OnceLock::new();
    if let Some(open) = OPEN.get() {
        return Ok(open);
    }
    let found = Cgroups::detect().map_err(|error| RuntimeError::Failed(format!("look for control groups: {error}")))?;
    Ok(OPEN.get_or_init(|| found))
}

fn resources(limits: &Limits) -> Resources {
    let mut out = Resources::default();
    out.cpu.shares = u64::try_from(limits.cpu_shares).ok().filter(|shares| *shares > 0);
    out.cpu.period = u64::try_from(PERIOD_MICROS).ok();
    out.cpu.quota = Some(if limits.cpu_quota_micros > 0 { limits.cpu_quota_micros } else { -1 });
    out.memory.limit = Some(if limits.memory_bytes > 0 { limits.memory_bytes } else { -1 });
    out
}

impl Groups {
    pub fn new(tag: &str) -> Self {
        Self { root: PathBuf::from(format!("/knarr-{tag}/kubepods")) }
    }

    pub fn path(&self, class: &str, uid: &str) -> PathBuf {
        self.root.join(class).join(format!("pod{uid}"))
    }

    /// Makes the pod's group or changes its limits; the path that its containers' groups are made in.
    pub fn make(&self, request: &GroupRequest) -> Result<PathBuf, RuntimeError> {
        let path = self.path(request.class, &request.uid);
        let cgroups = cgroups()?;
        if request.class == "besteffort" {
            // Together they get what others leave.
            let class = self.root.join(request.class);
            let group = cgroups.create(&class).map_err(|error| failed("make", &class, &error))?;
            if group.created() {
                let mut least = Resources::default();
                least.cpu.shares = u64::try_from(SHARES_MIN).ok();
                group.apply(&least).map_err(|error| failed("set up", &class, &error))?;
            }
        }
        let group = cgroups.create(&path).map_err(|error| failed("make", &path, &error))?;
        group.apply(&resources(&request.limits)).map_err(|error| failed("limit", &path, &error))?;
        Ok(path)
    }

    /// What the burstable pods get together.
    pub fn share(&self, class: &str, shares: i64) -> Result<(), RuntimeError> {
        let path = self.root.join(class);
        let Ok(group) = cgroups()?.find(&path) else { return Ok(()) };
        let mut wanted = Resources::default();
        wanted.cpu.shares = u64::try_from(shares).ok();
        group.apply(&wanted).map(drop).map_err(|error| failed("share", &path, &error))
    }

    /// The pod's group, wherever it is.
    pub fn find(&self, uid: &str) -> Option<PathBuf> {
        let cgroups = cgroups().ok()?;
        CLASSES.iter().map(|class| self.path(class, uid)).find(|path| cgroups.find(path).is_ok())
    }

    pub fn remove(&self, uid: &str) -> Result<(), RuntimeError> {
        while let Some(path) = self.find(uid) {
            cgroups()?.remove(&path, PATIENCE).map_err(|error| failed("remove", &path, &error))?;
        }
        Ok(())
    }

    /// When no pod is left.
    pub fn remove_all(&self) -> Result<(), RuntimeError> {
        cgroups()?.remove(&self.root, PATIENCE).map_err(|error| failed("remove", &self.root, &error))
    }
}
