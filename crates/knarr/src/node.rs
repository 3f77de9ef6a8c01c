//! What a node is told on the command line, wherever its API is.

use std::path::{Path, PathBuf};
use std::time::Duration;

use kubelet::{Eviction, ImageGc, Periods, PodLogs};

use crate::flags::{Flag, Matches, text};
use crate::settings::Settings;

pub const FLAGS: &[Flag] = &[
    text(
        "eviction-hard",
        "When the node sends pods away: memory.available<100Mi,nodefs.available<10%,pid.available<100",
    ),
    text(
        "eviction-soft",
        "When it does after a while: as --eviction-hard, each with a time in --eviction-soft-grace-period",
    ),
    text("eviction-soft-grace-period", "How long a soft threshold is crossed before pods go: memory.available=1m30s"),
    text(
        "eviction-max-pod-grace-period",
        "Most seconds of grace for a pod that goes for a soft threshold (default: the pod's own)",
    ),
    text(
        "eviction-minimum-reclaim",
        "How much more than a threshold is to be free before it is enough: memory.available=200Mi",
    ),
    text(
        "image-gc-high-threshold",
        "Percent of the disk in use above which images go that no pod uses any more (default: 85; 100: never)",
    ),
    text("image-gc-low-threshold", "Percent of the disk in use down to which they go (default: 80)"),
    text("minimum-image-ttl-duration", "How long an image is unused before it may go (default: 2m0s)"),
    text(
        "shutdown-grace-period",
        "How long pods have to end when the process is told to by a signal, as at the machine's shutdown (default: they run on)",
    ),
    text(
        "shutdown-grace-period-critical-pods",
        "The part of it that is for critical pods alone, at the end (default: 0s)",
    ),
    text(
        "shutdown-grace-period-by-pod-priority",
        "Instead of both: 0=20s,10000=10s ends pods below priority 10000 first",
    ),
    text("pod-manifests", "Directory of files that declare pods of this node's own (static pods)"),
    crate::cri::ENDPOINT,
    crate::cri::CNI_CONF_DIR,
    crate::cri::CNI_BIN_DIR,
];

/// What the flags come to.
#[derive(Debug, Clone)]
pub struct NodePlan {
    pub eviction: Eviction,
    pub image_gc: ImageGc,
    pub shutdown: Periods,
    pub manifests: Option<PathBuf>,
    /// Where another runtime listens.
    pub endpoint: Option<String>,
}

impl NodePlan {
    pub fn read(matches: &Matches) -> Result<Self, String> {
        let text = |flag: &str| matches.text(flag).unwrap_or_default();
        let mut eviction = Eviction::parse(
            matches.text("eviction-hard"),
            text("eviction-soft"),
            text("eviction-soft-grace-period"),
            text("eviction-minimum-reclaim"),
        )?;
        if let Some(secs) = matches.text("eviction-max-pod-grace-period") {
            let secs = secs.parse().map_err(|error| format!("--eviction-max-pod-grace-period {secs}: {error}"))?;
            eviction.soft_grace_max = Some(Duration::from_secs(secs));
        }
        let image_gc = ImageGc::parse(
            matches.text("image-gc-high-threshold"),
            matches.text("image-gc-low-threshold"),
            matches.text("minimum-image-ttl-duration"),
        )?;
        let duration = |flag: &str| match matches.text(flag) {
            None => Ok(Duration::ZERO),
            Some(text) => {
                vocab::duration::parse(text).ok_or_else(|| format!("--{flag} {text}: expected a duration as 30s"))
            }
        };
        let (total, critical) = (duration("shutdown-grace-period")?, duration("shutdown-grace-period-critical-pods")?);
        let shutdown = match text("shutdown-grace-period-by-pod-priority") {
            "" => Periods::new(total, critical).map_err(|error| format!("--shutdown-grace-period: {error}"))?,
            _ if !total.is_zero() || !critical.is_zero() => {
                return Err("--shutdown-grace-period-by-pod-priority goes without the other two".into());
            }
            text => {
                Periods::parse(text).map_err(|error| format!("--shutdown-grace-period-by-pod-priority: {error}"))?
            }
        };
        let manifests = matches.text("pod-manifests").map(PathBuf::from);
        let endpoint = matches.text("container-runtime-endpoint").map(str::to_owned);
        Ok(Self { eviction, image_gc, shutdown, manifests, endpoint })
    }
}

/// Where pods' logs go: where everybody looks for them, or beneath the root of an instance that has one of its own.
pub fn logs(settings: &Settings) -> PodLogs {
    match settings.root_named {
        false => PodLogs::new(Path::new("/var/log")),
        true => PodLogs::new(&settings.root.join("log")),
    }
}

/// Where device plugins register: where they all look for it, or beneath the root of an instance that has one of its own.
pub fn device_plugins(settings: &Settings) -> PathBuf {
    match settings.root_named {
        false => "/var/lib/kubelet/device-plugins".into(),
        true => settings.root.join("device-plugins"),
    }
}

/// Files in the run directory by which a command says what the process's end is to mean for its pods.
pub mod word {
    /// They end as well.
    pub const ENDING: &str = "ending";
    /// They run on, also where the machine's shutdown would end them.
    pub const KEEPING: &str = "keeping";
}

/// Forgets what was said to an earlier process.
pub fn forget_word(run: &Path) {
    for word in [word::ENDING, word::KEEPING] {
        let _ = std::fs::remove_file(run.join(word));
    }
}

/// Whether nobody has said what the end is to mean: then it may be the machine's.
pub fn is_unsaid(run: &Path) -> bool {
    [word::ENDING, word::KEEPING].iter().all(|word| !run.join(word).exists())
}
