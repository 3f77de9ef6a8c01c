//! `update`: new limits and restart policy, for a running container at once.

use linux::cgroup;

use super::records::CONTAINERS;
use super::{Container, Inner};
use crate::decide::request::check_restart_policy;
use crate::spec;
use crate::{Error, Resources, Result, Status, UpdateRequest};

impl Inner {
    /// Blocking; the caller holds the operation lock.
    pub(crate) fn update(&self, container: &Container, request: UpdateRequest) -> Result<Vec<String>> {
        let mut record = (*container.record()).clone();
        if container.live().saved.removing {
            return Err(Error::Conflict(format!("Cannot update container {}: it is marked for removal", container.id)));
        }
        let failed =
            |why: &dyn std::fmt::Display| Error::Invalid(format!("Cannot update container {}: {why}", container.id));
        if let Some(policy) = request.restart_policy {
            check_restart_policy(policy, false)?;
            if record.host.auto_remove && policy.mode != crate::RestartMode::No {
                return Err(failed(
                    &"Restart policy cannot be updated because AutoRemove is enabled for the container",
                ));
            }
            record.host.restart_policy = policy;
        }
        if let Some(name) = unchangeable(&request.resources) {
            return Err(failed(&format_args!("{name} cannot be changed once a container is made")));
        }
        merge(&mut record.host.resources, &request.resources).map_err(|why| failed(&why))?;
        spec::check_resources(&record.host.resources, self.facts.cpus)?;
        let mut warnings = Vec::new();
        if matches!(container.status(), Status::Running | Status::Paused) {
            let group = self.group(container)?;
            warnings = group
                .apply(&changed(&request.resources, &record.host.resources)?)
                .map_err(|e| Error::internal(format_args!("Cannot update container {}", container.id), e))?;
        }
        self.db.write(|txn| txn.put(&CONTAINERS, &container.id, &record)).map_err(|e: db::Error| e)?;
        container.set_record(record);
        self.refresh_view(container);
        self.container_event(container, "update", &[]);
        Ok(warnings)
    }
}

/// What the API's body can ask for and no update changes.
fn unchangeable(asked: &Resources) -> Option<&'static str> {
    let said = [
        ("CgroupParent", !asked.cgroup_parent.is_empty()),
        ("BlkioWeightDevice", !asked.blkio_weight_device.is_empty()),
        ("BlkioDeviceReadBps", !asked.blkio_device_read_bps.is_empty()),
        ("BlkioDeviceWriteBps", !asked.blkio_device_write_bps.is_empty()),
        ("BlkioDeviceReadIOps", !asked.blkio_device_read_iops.is_empty()),
        ("BlkioDeviceWriteIOps", !asked.blkio_device_write_iops.is_empty()),
        ("Devices", !asked.devices.is_empty()),
        ("DeviceCgroupRules", !asked.device_cgroup_rules.is_empty()),
        ("DeviceRequests", !asked.device_requests.is_empty()),
        // Clients of old say these as they are by default.
        ("MemorySwappiness", asked.memory_swappiness.is_some_and(|value| value > 0)),
        ("OomKillDisable", asked.oom_kill_disable == Some(true)),
        ("Ulimits", !asked.ulimits.is_empty()),
    ];
    said.into_iter().find(|(_, said)| *said).map(|(name, _)| name)
}

/// Lays what was asked for over what holds. Docker's rule: zero and empty leave a value as it is.
fn merge(have: &mut Resources, asked: &Resources) -> Result<(), String> {
    if (asked.cpu_period_micros != 0 || asked.cpu_quota_micros != 0) && have.nano_cpus > 0 {
        return Err("Conflicting options: CPU Period cannot be updated as NanoCPUs has already been set".into());
    }
    if asked.nano_cpus > 0 && (have.cpu_period_micros > 0 || have.cpu_quota_micros > 0) {
        return Err("Conflicting options: Nano CPUs cannot be updated as CPU Period has already been set".into());
    }
    if asked.memory_bytes != 0 {
        if asked.memory_swap_bytes == 0 && have.memory_swap_bytes > 0 && asked.memory_bytes > have.memory_swap_bytes {
            return Err(
                "Memory limit should be smaller than already set memoryswap limit, update the memoryswap at the same time"
                    .into(),
            );
        }
        have.memory_bytes = asked.memory_bytes;
    }
    let numbers = [
        (&mut have.memory_swap_bytes, asked.memory_swap_bytes),
        (&mut have.memory_reservation_bytes, asked.memory_reservation_bytes),
        (&mut have.cpu_shares, asked.cpu_shares),
        (&mut have.nano_cpus, asked.nano_cpus),
        (&mut have.cpu_period_micros, asked.cpu_period_micros),
        (&mut have.cpu_quota_micros, asked.cpu_quota_micros),
        // Laid over as well, for the check that refuses them.
        (&mut have.cpu_realtime_period_micros, asked.cpu_realtime_period_micros),
        (&mut have.cpu_realtime_runtime_micros, asked.cpu_realtime_runtime_micros),
    ];
    for (have, asked) in numbers {
        if asked != 0 {
            *have = asked;
        }
    }
    for (have, asked) in [(&mut have.cpuset_cpus, &asked.cpuset_cpus), (&mut have.cpuset_mems, &asked.cpuset_mems)] {
        if !asked.is_empty() {
            have.clone_from(asked);
        }
    }
    if asked.blkio_weight != 0 {
        have.blkio_weight = asked.blkio_weight;
    }
    if asked.pids_limit.is_some() {
        have.pids_limit = asked.pids_limit;
    }
    Ok(())
}

/// The kernel's settings that follow from what was asked for; the rest is left alone.
fn changed(asked: &Resources, now: &Resources) -> Result<cgroup::Resources> {
    let set = |n: i64| (n != 0).then_some(n);
    let text = |t: &str| (!t.is_empty()).then(|| t.to_owned());
    let mut out = cgroup::Resources::default();
    if asked.memory_bytes != 0 || asked.memory_swap_bytes != 0 {
        out.memory.limit = set(now.memory_bytes);
        out.memory.swap = set(now.memory_swap_bytes);
    }
    out.memory.reservation = set(asked.memory_reservation_bytes);
    out.cpu.shares = u64::try_from(asked.cpu_shares).ok().filter(|n| *n > 0);
    if asked.nano_cpus > 0 {
        out.cpu.period = Some(100_000);
        out.cpu.quota = Some(asked.nano_cpus / 10_000);
    }
    if asked.cpu_period_micros > 0 {
        out.cpu.period = Some(asked.cpu_period_micros as u64);
    }
    if asked.cpu_quota_micros != 0 {
        out.cpu.quota = Some(asked.cpu_quota_micros);
    }
    out.cpu.cpus = text(&asked.cpuset_cpus);
    out.cpu.mems = text(&asked.cpuset_mems);
    out.block_io.weight = (asked.blkio_weight != 0).then_some(asked.blkio_weight);
    out.pids = asked.pids_limit.map(|n| if n <= 0 { -1 } else { n });
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zero_leaves_a_limit_as_it_is() {
        let mut have = Resources { memory_bytes: 64 << 20, memory_swap_bytes: 128 << 20, ..Default::default() };
        merge(&mut have, &Resources { cpu_shares: 512, pids_limit: Some(10), ..Default::default() }).unwrap();
        assert_eq!((have.memory_bytes, have.cpu_shares, have.pids_limit), (64 << 20, 512, Some(10)));
        let more = Resources { memory_bytes: 256 << 20, ..Default::default() };
        assert!(merge(&mut have, &more).unwrap_err().starts_with("Memory limit should be smaller"));
        have.nano_cpus = 1;
        assert!(merge(&mut have, &Resources { cpu_quota_micros: 5000, ..Default::default() }).is_err());
    }

    #[test]
    fn what_no_update_changes_is_named() {
        assert_eq!(
            unchangeable(&Resources { memory_bytes: 1, oom_kill_disable: Some(false), ..Default::default() }),
            None
        );
        assert_eq!(
            unchangeable(&Resources { memory_swappiness: Some(7), ..Default::default() }),
            Some("MemorySwappiness")
        );
        assert_eq!(unchangeable(&Resources { cgroup_parent: "/x".into(), ..Default::default() }), Some("CgroupParent"));
    }

    #[test]
    fn only_what_was_asked_for_reaches_the_kernel() {
        let asked = Resources { memory_bytes: 32 << 20, nano_cpus: 500_000_000, ..Default::default() };
        let now = Resources { memory_swap_bytes: 64 << 20, cpu_shares: 7, ..asked.clone() };
        let out = changed(&asked, &now).unwrap();
        assert_eq!((out.memory.limit, out.memory.swap), (Some(32 << 20), Some(64 << 20)));
        assert_eq!((out.cpu.quota, out.cpu.period, out.cpu.shares), (Some(50_000), Some(100_000), None));
        assert_eq!(out.pids, None);
    }
}
