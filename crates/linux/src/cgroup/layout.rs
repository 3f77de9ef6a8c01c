//! Which hierarchies this machine has, and which controller lives in which.

use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use rustix::fs::statfs;
use serde::{Deserialize, Serialize};

use super::controller::{Controller, ControllerSet};
use super::error::Error;

const ROOT: &str = "/sys/fs/cgroup";
const CGROUP2_SUPER_MAGIC: rustix::fs::FsWord = 0x6367_7270;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Version {
    V1,
    V2,
}

/// One mounted hierarchy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hierarchy {
    pub version: Version,
    /// Those that this build knows. On v2 what the root's `cgroup.controllers` offers.
    pub controllers: ControllerSet,
    /// The name of a v1 hierarchy without controllers (`name=systemd`).
    pub name: Option<String>,
    pub mount: PathBuf,
    /// The group that the mount point shows; `/` unless somebody bind-mounted a part (a container without a cgroup namespace).
    pub root: PathBuf,
}

impl Hierarchy {
    /// What `/proc/<pid>/cgroup` and a container's `/sys/fs/cgroup` call it: `cpu,cpuacct`, `systemd`, `unified`.
    pub fn label(&self) -> String {
        match (self.version, &self.name) {
            (Version::V2, _) => "unified".into(),
            (_, Some(name)) => name.clone(),
            _ => self.controllers.iter().map(Controller::name_v1).collect::<Vec<_>>().join(","),
        }
    }
}

/// All hierarchies that groups are made in. v2 comes last if there is one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layout {
    pub hierarchies: Vec<Hierarchy>,
}

impl Layout {
    /// Reads the mount table of this process. Costs one `statfs` and one small read where v2 is alone.
    pub fn detect() -> Result<Self, Error> {
        if statfs(ROOT).is_ok_and(|s| s.f_type == CGROUP2_SUPER_MAGIC) {
            return Ok(Self { hierarchies: vec![unified(ROOT.into(), "/".into())] });
        }
        let text = fs::read("/proc/self/mountinfo").map_err(|e| Error::Io {
            call: "read",
            path: "/proc/self/mountinfo".into(),
            errno: rustix::io::Errno::from_io_error(&e).unwrap_or(rustix::io::Errno::IO),
        })?;
        let systemd = Path::new("/run/systemd/system").exists();
        let mut layout = Self::parse(&text, systemd);
        for hierarchy in &mut layout.hierarchies {
            if hierarchy.version == Version::V2 {
                hierarchy.controllers = root_controllers(&hierarchy.mount);
            }
        }
        if layout.hierarchies.is_empty() { Err(Error::NoHierarchy) } else { Ok(layout) }
    }

    /// From the text of `/proc/self/mountinfo`. Pure; the controllers of a v2 hierarchy stay empty here.
    ///
    /// A named v1 hierarchy belongs to the init system that made it: groups are made in `name=systemd` only where systemd runs
    /// and would otherwise count (and stop) our processes as part of the service that started them.
    pub fn parse(mountinfo: &[u8], systemd_runs: bool) -> Self {
        let mut found: Vec<Hierarchy> = Vec::new();
        for line in mountinfo.split(|b| *b == b'\n') {
            let Some(hierarchy) = parse_line(line) else { continue };
            let wanted = match &hierarchy.name {
                Some(name) => name == "systemd" && systemd_runs,
                None => true,
            };
            if !wanted {
                continue;
            }
            let same = |h: &Hierarchy| {
                h.version == hierarchy.version && h.name == hierarchy.name && h.controllers == hierarchy.controllers
            };
            match found.iter_mut().find(|h| same(h)) {
                // The usual place wins over a second mount of the same hierarchy elsewhere.
                Some(old) if !old.mount.starts_with(ROOT) && hierarchy.mount.starts_with(ROOT) => *old = hierarchy,
                Some(_) => {}
                None => found.push(hierarchy),
            }
        }
        found.sort_by_key(|h| h.version == Version::V2);
        Self { hierarchies: found }
    }

    /// The hierarchy that a controller lives in. Where v1 has `devices`/`freezer` that is theirs; else v2 does their work.
    pub fn home(&self, controller: Controller) -> Option<(usize, Version)> {
        let by_name = self.hierarchies.iter().position(|h| h.controllers.contains(controller));
        let index = by_name.or_else(|| match controller {
            Controller::Devices | Controller::Freezer => self.unified(),
            // v2 counts processor time in every group, controller or not.
            Controller::Cpuacct => self.home(Controller::Cpu).map(|(i, _)| i).or(self.unified()),
            _ => None,
        })?;
        Some((index, self.hierarchies[index].version))
    }

    /// The v2 hierarchy, if mounted.
    pub fn unified(&self) -> Option<usize> {
        self.hierarchies.iter().position(|h| h.version == Version::V2)
    }

    pub fn is_v2_only(&self) -> bool {
        self.hierarchies.iter().all(|h| h.version == Version::V2)
    }

    /// The version to report (`docker info`: "Cgroup Version"): 2 only where v2 is alone.
    pub fn version(&self) -> Version {
        if self.is_v2_only() { Version::V2 } else { Version::V1 }
    }

    /// What can be limited here, for warnings and for leaving out what cannot. Looks at files of the root groups' children
    /// only where a controller's presence does not decide.
    pub fn features(&self) -> Features {
        let has = |c| self.home(c).is_some();
        let v1 = |c| matches!(self.home(c), Some((_, Version::V1)));
        let file = |c: Controller, name: &str| {
            self.home(c).is_some_and(|(i, _)| self.hierarchies[i].mount.join(name).exists())
        };
        // v2 shows most files in no root group; there the kernel's accounting switch is the sign.
        let swap_accounting = || fs::read_to_string("/proc/swaps").is_ok();
        Features {
            memory: has(Controller::Memory),
            swap: match self.home(Controller::Memory) {
                Some((_, Version::V1)) => file(Controller::Memory, "memory.memsw.limit_in_bytes"),
                Some((_, Version::V2)) => swap_accounting(),
                None => false,
            },
            swappiness: v1(Controller::Memory) && file(Controller::Memory, "memory.swappiness"),
            oom_kill_disable: v1(Controller::Memory),
            cpu_shares: has(Controller::Cpu),
            cpu_cfs: match self.home(Controller::Cpu) {
                Some((_, Version::V1)) => file(Controller::Cpu, "cpu.cfs_quota_us"),
                other => other.is_some(),
            },
            cpu_realtime: v1(Controller::Cpu) && file(Controller::Cpu, "cpu.rt_runtime_us"),
            cpuset: has(Controller::Cpuset),
            pids: has(Controller::Pids),
            block_io: has(Controller::Io),
            hugetlb: has(Controller::Hugetlb),
            devices: has(Controller::Devices),
            freezer: has(Controller::Freezer),
        }
    }
}

/// See [`Layout::features`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Features {
    pub memory: bool,
    pub swap: bool,
    pub swappiness: bool,
    pub oom_kill_disable: bool,
    pub cpu_shares: bool,
    pub cpu_cfs: bool,
    pub cpu_realtime: bool,
    pub cpuset: bool,
    pub pids: bool,
    pub block_io: bool,
    pub hugetlb: bool,
    pub devices: bool,
    pub freezer: bool,
}

fn unified(mount: PathBuf, root: PathBuf) -> Hierarchy {
    let controllers = root_controllers(&mount);
    Hierarchy { version: Version::V2, controllers, name: None, mount, root }
}

fn root_controllers(mount: &Path) -> ControllerSet {
    // No such file (an old kernel's v2) means no controllers to offer.
    fs::read_to_string(mount.join("cgroup.controllers")).map(|t| ControllerSet::parse(&t)).unwrap_or_default()
}

/// Format: proc_pid_mountinfo(5).
fn parse_line(line: &[u8]) -> Option<Hierarchy> {
    let mut fields = line.split(|b| *b == b' ');
    let root = unescape(fields.nth(3)?);
    let mount = unescape(fields.next()?);
    let mut rest = fields.skip_while(|f| *f != b"-").skip(1);
    let kind = rest.next()?;
    let options = std::str::from_utf8(rest.nth(1)?).ok()?;
    match kind {
        b"cgroup2" => {
            Some(Hierarchy { version: Version::V2, controllers: ControllerSet::EMPTY, name: None, mount, root })
        }
        b"cgroup" => {
            let controllers = ControllerSet::parse(options);
            let name = options.split(',').find_map(|o| o.strip_prefix("name=")).map(str::to_owned);
            if controllers.is_empty() && name.is_none() {
                return None;
            }
            Some(Hierarchy { version: Version::V1, controllers, name, mount, root })
        }
        _ => None,
    }
}

/// Octal escapes of white space and backslash, as the kernel writes paths into mountinfo.
fn unescape(field: &[u8]) -> PathBuf {
    let mut out = Vec::with_capacity(field.len());
    let mut i = 0;
    while i < field.len() {
        let digits =
            field.get(i + 1..i + 4).filter(|d| field[i] == b'\\' && d.iter().all(|b| (b'0'..=b'7').contains(b)));
        match digits {
            Some(d) => {
                out.push(d.iter().fold(0u8, |v, b| v.wrapping_mul(8).wrapping_add(b - b'0')));
                i += 4;
            }
            None => {
                out.push(field[i]);
                i += 1;
            }
        }
    }
    std::ffi::OsString::from_vec(out).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(mountinfo: &str, systemd: bool) -> Vec<String> {
        let layout = Layout::parse(mountinfo.as_bytes(), systemd);
        layout.hierarchies.iter().map(|h| format!("{} {}", h.label(), h.mount.display())).collect()
    }

    const HYBRID: &str = "\
30 25 0:25 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755
31 30 0:26 / /sys/fs/cgroup/cpu,cpuacct rw,nosuid shared:9 master:1 - cgroup cgroup rw,cpu,cpuacct
32 30 0:27 / /sys/fs/cgroup/blkio rw - cgroup cgroup rw,blkio
33 30 0:28 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd
34 30 0:29 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw,nsdelegate
35 30 0:27 / /mnt/again rw - cgroup cgroup rw,blkio
";

    #[test]
    fn each_hierarchy_is_found_once_and_v2_is_last() {
        let expected =
            ["cpu,cpuacct /sys/fs/cgroup/cpu,cpuacct", "blkio /sys/fs/cgroup/blkio", "unified /sys/fs/cgroup/unified"];
        assert_eq!(shown(HYBRID, false), expected);
    }

    #[test]
    fn the_usual_place_wins_over_a_second_mount() {
        let text =
            "1 1 0:1 / /mnt/x rw - cgroup c rw,memory\n2 1 0:1 / /sys/fs/cgroup/memory rw - cgroup c rw,memory\n";
        assert_eq!(shown(text, false), ["memory /sys/fs/cgroup/memory"]);
    }

    #[test]
    fn the_named_hierarchy_of_systemd_counts_only_where_systemd_runs() {
        assert_eq!(shown(HYBRID, true)[2], "systemd /sys/fs/cgroup/systemd");
    }

    #[test]
    fn escaped_paths_and_parts_of_a_hierarchy_are_read() {
        let text = "1 1 0:1 /a\\040b /mnt/c\\134d rw - cgroup2 none rw\n";
        let layout = Layout::parse(text.as_bytes(), false);
        assert_eq!(
            (layout.hierarchies[0].root.to_str(), layout.hierarchies[0].mount.to_str()),
            (Some("/a b"), Some("/mnt/c\\d"))
        );
    }

    #[test]
    fn malformed_lines_are_skipped() {
        assert_eq!(shown("nonsense\n1 2 3\n1 1 0:1 / /x rw - cgroup\n\n", true), Vec::<String>::new());
    }

    #[test]
    fn controllers_find_their_home_across_versions() {
        let mut layout = Layout::parse(HYBRID.as_bytes(), false);
        layout.hierarchies[2].controllers = ControllerSet::parse("memory pids");
        let home = |c| layout.home(c);
        assert_eq!(home(Controller::Cpu), Some((0, Version::V1)));
        assert_eq!(home(Controller::Memory), Some((2, Version::V2)));
        assert_eq!(home(Controller::Devices), Some((2, Version::V2)), "by eBPF");
        assert_eq!(home(Controller::Hugetlb), None);
        assert_eq!(layout.version(), Version::V1);
    }
}
