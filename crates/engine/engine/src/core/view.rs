//! What inspect shows.

use std::collections::BTreeMap;

use super::{Container, Inner};
use crate::decide::merge::command_line;
use crate::decide::mounts::ContainerMount;
use crate::decide::ports::shown_ports;
use crate::{ContainerPaths, ContainerSize, ContainerView, GraphView, MountKind, MountPoint, Result};

impl Inner {
    /// Blocking: asks the image store where the layers are.
    pub(crate) fn view(&self, container: &Container, size: bool) -> Result<ContainerView> {
        let record = container.record();
        let (state, restarts, exec_ids) = {
            let live = container.live();
            (
                live.saved.state.clone(),
                live.saved.restarts,
                live.execs.values().filter(|exec| !exec.has_ended()).map(|exec| exec.id).collect(),
            )
        };
        let (path, args) = command_line(&record.config);
        let dir = self.container_dir(container.id);
        let snapshot = self.images.snapshot(&container.id.to_string()).ok();
        let running = state.status.is_running() && state.pid != 0;
        Ok(ContainerView {
            id: container.id,
            name: record.name.clone(),
            created_at: record.created_at,
            path,
            args,
            image_id: record.image,
            config: record.config.clone(),
            host: record.host.clone(),
            restart_count: restarts,
            driver: "overlay2",
            platform: record.platform.clone(),
            mounts: shown_mounts(&self.volumes.placed(container.id, &record.mounts), &record.host),
            exec_ids,
            paths: ContainerPaths {
                resolv_conf: dir.join("resolv.conf"),
                hostname: dir.join("hostname"),
                hosts: dir.join("hosts"),
                log: match record.host.log.driver.as_str() {
                    "" | "json-file" | crate::ship::options::CRI => {
                        self.log_path(container.id, &record.host).unwrap_or_default()
                    }
                    _ => Default::default(),
                },
            },
            graph: snapshot.map(|s| GraphView { lowers: s.lowers, upper: s.upper, work: s.work }).unwrap_or_default(),
            networks: self.networks.shown(container.id, &record),
            ports: if running {
                shown_ports(&record.config.exposed_ports, &self.networks.published(container.id))
            } else {
                BTreeMap::new()
            },
            sandbox_key: if running { format!("/proc/{}/ns/net", state.pid) } else { String::new() },
            size: if size { Some(self.container_size(container)?) } else { None },
            state,
        })
    }

    pub(crate) fn container_size(&self, container: &Container) -> Result<ContainerSize> {
        let (rw_bytes, lower_bytes) = self.images.snapshot_usage(&container.id.to_string())?;
        Ok(ContainerSize { rw_bytes, root_fs_bytes: rw_bytes + lower_bytes })
    }
}

/// Without those of `--tmpfs`: Docker shows them in the host's configuration alone.
pub(crate) fn shown_mounts(mounts: &[ContainerMount], host: &crate::HostConfig) -> Vec<MountPoint> {
    let of_flag = |at: &str| host.tmpfs.keys().any(|path| crate::decide::mounts::clean(path) == at);
    let mut shown = mount_points(mounts);
    shown.retain(|mount| mount.kind != MountKind::Tmpfs || !of_flag(&mount.destination));
    shown
}

fn mount_points(mounts: &[ContainerMount]) -> Vec<MountPoint> {
    let shown = mounts.iter().map(|m| MountPoint {
        kind: m.kind,
        name: if m.kind == MountKind::Image { m.image_name.clone() } else { m.volume.clone() },
        source: m.source.clone(),
        destination: m.destination.clone(),
        driver: match (m.kind, m.driver.as_str()) {
            (MountKind::Volume, "") => "local".into(),
            (MountKind::Volume, driver) => driver.into(),
            _ => String::new(),
        },
        mode: m.mode.clone(),
        rw: m.rw,
        propagation: m.propagation.clone(),
    });
    shown.collect()
}
