//! What this builder says it is and can. Clients ask for a capability before they use what it stands for, so that only what
//! really works stands here.

use std::collections::HashMap;

use crate::kit::Kit;
use crate::wire::pb::{Cap, Platform, Version, Worker};

const FRONTEND: &[&str] = &[
    "solve.base",
    "resolveimage",
    "resolveimage.resolvemode",
    "readfile",
    "readdir",
    "statfile",
    "return",
    "returnmap",
    "proto.refarray",
    "reference.output",
    "frontend.inputs",
    "frontend.caps",
    "gateway.solve.metadata",
    "gateway.solve.evaluate",
    "gateway.evaluate",
    "gateway.warnings",
];

const BUILDER: &[&str] = &[
    "source.image",
    "source.image.resolvemode",
    "source.git",
    "source.git.keepgitdir",
    "source.git.fullurl",
    "source.git.subdir",
    "source.http",
    "source.http.checksum",
    "source.local",
    "source.local.unique",
    "source.local.sessionid",
    "source.local.includepatterns",
    "source.local.followpaths",
    "source.local.excludepatterns",
    "source.local.sharedkeyhint",
    "source.local.differ",
    "exec.meta.base",
    "exec.meta.cgroup.parent",
    "exec.meta.network",
    "exec.meta.proxyenv",
    "exec.meta.security",
    "exec.meta.setsdefaultpath",
    "exec.meta.ulimit",
    "exec.mount.bind",
    "exec.mount.bind.readwrite-nooutput",
    "exec.mount.cache",
    "exec.mount.cache.sharing",
    "exec.mount.selector",
    "exec.mount.tmpfs",
    "exec.mount.tmpfs.size",
    "exec.mount.secret",
    "exec.mount.ssh",
    "exec.cgroup",
    "exec.secretenv",
    "file.base",
    "file.rm.wildcard",
    "file.copy.includeexcludepatterns",
    "constraints",
    "platform",
    "meta.ignorecache",
    "meta.description",
    "meta.exportcache",
    "exporter.image.annotations",
    "exporter.image.attestations",
    "exporter.sourcedateepoch",
    "exporter.multiple",
    "gc.freespacefilter",
];

pub(crate) fn frontend() -> Vec<Cap> {
    FRONTEND.iter().map(|id| Cap { id: (*id).to_owned(), enabled: true }).collect()
}

pub(crate) fn builder() -> Vec<Cap> {
    BUILDER.iter().map(|id| Cap { id: (*id).to_owned(), enabled: true }).collect()
}

pub(crate) fn version() -> Version {
    Version {
        package: "knarr".into(),
        version: concat!("v", env!("CARGO_PKG_VERSION")).into(),
        revision: String::new(),
    }
}

/// The one worker: this engine.
pub(crate) fn worker(kit: &Kit) -> Worker {
    let platform = image::Platform::host();
    let hostname = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let labels = [
        ("org.mobyproject.buildkit.worker.executor", "knarr"),
        ("org.mobyproject.buildkit.worker.hostname", hostname.trim()),
        // A client that sees it exports archives and caches, which Docker's older store could not.
        ("org.mobyproject.buildkit.worker.snapshotter", "overlayfs"),
    ];
    Worker {
        id: worker_id(kit),
        labels: labels.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect::<HashMap<_, _>>(),
        platforms: vec![Platform { architecture: platform.architecture, os: platform.os, variant: platform.variant }],
        version: Some(version()),
    }
}

/// The same for as long as the engine's folder is.
fn worker_id(kit: &Kit) -> String {
    use sha2::{Digest as _, Sha256};
    let root = kit.builder.engine().config().root.display().to_string();
    hex::encode(Sha256::digest(root))[..25].to_owned()
}
