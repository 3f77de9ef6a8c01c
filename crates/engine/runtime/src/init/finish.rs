//! From a prepared root to the program: identity, limits, rights, the gate, and exec. The same for a container's first process and for
//! exec, because what holds for one must hold for the other.
//!
//! The order follows from what each act needs: limits and labels need rights, rights go last but one, and the seccomp filter goes last of
//! all so that a profile need not allow what setting up needs. Only where the filter itself needs a right (without no_new_privs) it goes
//! in just before the rights are given up.

use std::ffi::CString;

use linux::Errno;
use linux::caps::{self, CapSet, Sets};
use linux::exec::CStrings;
use linux::fs::{Mode, OFlags, Root};
use linux::rlimit::{self, Limit, Resource};

use crate::hooks;
use crate::plan::{CapabilitySets, Hook, Plan, ProcessPlan};
use crate::report::{Cause, Failure, RefusedKind};

use super::Inherited;

/// Where programs are looked for when the environment names no PATH (as execvp does).
const PATH_DEFAULT: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
const PASSWD_MAX: u64 = 1 << 20;

pub(crate) struct Finish<'a> {
    pub(crate) process: &'a ProcessPlan,
    /// As the launcher sees this process; 0 while unknown.
    pub(crate) pid: i32,
    /// startContainer hooks.
    pub(crate) hooks: &'a [Hook],
    /// For the hooks' state.
    pub(crate) state: Option<&'a Plan>,
    pub(crate) setgroups: bool,
    /// The container's state object for a seccomp agent; the pid is put in here.
    pub(crate) seccomp_state: Option<serde_json::Value>,
}

impl Finish<'_> {
    /// Ends in the program, or says why not.
    pub(crate) fn run(self, with: &mut Inherited, root: Option<Root>) -> Failure {
        // The container's own root from here on; the descriptor of the mount must not survive.
        drop(root);
        match self.attempt(with) {
            Ok(never) => match never {},
            Err(failure) => failure,
        }
    }

    fn attempt(&self, with: &mut Inherited) -> Result<super::Never, Failure> {
        let process = self.process;
        let at = |step: &str| {
            let step = step.to_owned();
            move |cause: Cause| cause.at(step)
        };
        self.scheduling().map_err(at("set scheduling and memory policy"))?;
        let env = self.environment().map_err(at("read /etc/passwd"))?;
        labels(process, with).map_err(at("set the security label"))?;
        let listens = process.seccomp.as_ref().is_some_and(|seccomp| seccomp.listener.is_some());
        let pid = if self.pid != 0 || self.hooks.is_empty() && !listens {
            self.pid
        } else {
            with.proc.get().map_err(Cause::from).and_then(super::steps::own_pid).map_err(at("find our own pid"))?
        };
        own_stdio(process.uid);
        let early_cwd = open_cwd(&process.cwd);
        limits(process, with).map_err(at("set resource limits"))?;
        identity(process, self.setgroups).map_err(at("set user, groups and bounding set"))?;
        // As root first, because a home directory may be closed to others; as the user if root is the one kept out (root-squashed NFS).
        let cwd = early_cwd.or_else(|_| open_cwd(&process.cwd)).map_err(at("enter the working directory"))?;
        enter(cwd, &process.cwd).map_err(at("enter the working directory"))?;
        let program = find_program(&process.args[0], &env).map_err(at("exec"))?;
        let argv =
            CStrings::new(process.args.iter().map(String::as_str)).map_err(|e| Cause::from(e).at("exec".into()))?;
        let envp = CStrings::new(env.iter().map(String::as_str)).map_err(|e| Cause::from(e).at("exec".into()))?;
        let sets = reachable(process.capabilities.unwrap_or_default(), with).map_err(at("read capabilities"))?;
        linux::signal::reset_for_exec().map_err(|e| Cause::from(e).at("reset signals".into()))?;

        super::wait_at_gate(with).map_err(at("wait for start"))?;

        if !self.hooks.is_empty()
            && let Some(plan) = self.state
        {
            let state = hooks::state(plan, hooks::Status::Created, pid);
            hooks::run(self.hooks, "startContainer", &state).map_err(at("run startContainer hooks"))?;
        }
        close_on_exec(process.preserve_fds).map_err(|e| Cause::from(e).at("close descriptors".into()))?;
        let state = self.seccomp_state.clone().map(|mut state| {
            state["pid"] = pid.into();
            state
        });
        if process.no_new_privileges {
            linux::process::set_no_new_privs().map_err(|e| Cause::from(e).at("set no_new_privs".into()))?;
            rights(sets).map_err(at("set capabilities"))?;
            filter(process, with, state).map_err(at("load the seccomp filter"))?;
        } else {
            // Changing the user took the effective set away; loading a filter without no_new_privs needs it.
            let own = caps::get().map_err(|e| Cause::from(e).at("read capabilities".into()))?;
            if process.seccomp.is_some() && own.effective != own.permitted {
                caps::set(&Sets { effective: own.permitted, ..own })
                    .map_err(|e| Cause::from(e).at("raise capabilities".into()))?;
            }
            filter(process, with, state).map_err(at("load the seccomp filter"))?;
            rights(sets).map_err(at("set capabilities"))?;
        }
        let error = linux::exec::execve(&program, &argv, &envp);
        Err(exec_cause(&process.args[0], error.errno()).at("exec".into()))
    }

    fn scheduling(&self) -> Result<(), Cause> {
        let process = self.process;
        if let Some(cpus) = &process.affinity_final {
            linux::process::set_affinity(&cpus.iter().map(|n| *n as usize).collect::<Vec<_>>())?;
        }
        if let Some(policy) = &process.memory_policy {
            linux::process::set_memory_policy(policy.mode, &policy.nodes)?;
        }
        if let Some(s) = &process.scheduler {
            linux::process::set_scheduler(&linux::process::Scheduler {
                policy: s.policy,
                flags: s.flags,
                nice: s.nice,
                priority: s.priority,
                runtime: s.runtime,
                deadline: s.deadline,
                period: s.period,
            })?;
        }
        if let Some(value) = process.io_priority {
            linux::process::set_ioprio((value >> 13) as u16, (value & 0x1fff) as u16)?;
        }
        if let Some(persona) = process.personality {
            linux::process::set_personality(persona)?;
        }
        Ok(())
    }

    fn environment(&self) -> Result<Vec<String>, Cause> {
        let mut env = self.process.env.clone();
        if self.process.home_from_passwd {
            // A strange file of the image is no reason to fail: it only has no answer.
            let passwd = Root::open("/")?.read("/etc/passwd", PASSWD_MAX).unwrap_or_default();
            let home = home_of(&String::from_utf8_lossy(&passwd), self.process.uid).unwrap_or("/").to_owned();
            env.retain(|entry| !entry.starts_with("HOME="));
            env.push(format!("HOME={home}"));
        }
        Ok(env)
    }
}

/// The home directory of a numeric user, from the text of a passwd file.
fn home_of(passwd: &str, uid: u32) -> Option<&str> {
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let id = fields.nth(2)?;
        let home = fields.nth(2)?;
        (id.parse() == Ok(uid) && home.starts_with('/')).then_some(home)
    })
}

fn labels(process: &ProcessPlan, with: &Inherited) -> Result<(), Cause> {
    let write = |files: &[&str], value: &str| -> Result<(), Cause> {
        let mut last = None;
        for file in files {
            match with.proc.get()?.open_file(file, OFlags::WRONLY | OFlags::NOFOLLOW, Mode::empty()) {
                Ok(fd) => {
                    linux::pipe::write(&fd, value.as_bytes())?;
                    return Ok(());
                }
                Err(error) => last = Some(error),
            }
        }
        last.map_or(Ok(()), |error| Err(error.into()))
    };
    if let Some(profile) = &process.apparmor {
        write(&["self/attr/apparmor/exec", "self/attr/exec"], &format!("exec {profile}"))?;
    }
    if let Some(label) = &process.selinux {
        write(&["self/attr/exec"], label)?;
    }
    Ok(())
}

/// The user may reopen /dev/stdout and the like only if it owns the pipe or terminal behind it. Files of others stay theirs where that is
/// not possible.
fn own_stdio(uid: u32) {
    for fd in [linux::exec::borrow_inherited(0), linux::exec::borrow_inherited(1), linux::exec::borrow_inherited(2)] {
        let Some(fd) = fd else { continue };
        let Ok(stat) = linux::fs::fstat(fd) else { continue };
        let null = linux::fs::device_numbers(&stat) == (1, 3) && stat.st_rdev != 0;
        if stat.st_uid != uid && !null {
            let _ = linux::fs::fchown(fd, uid, stat.st_gid);
        }
    }
}

fn open_cwd(cwd: &str) -> Result<std::os::fd::OwnedFd, Cause> {
    if vocab::weak::without("cwd") {
        return Ok(linux::fs::open_host(cwd, OFlags::PATH | OFlags::DIRECTORY)?);
    }
    Root::open("/")?.open_dir(cwd).map_err(Into::into)
}

/// By descriptor, then asked back: a directory outside the container's root has no path in it.
fn enter(cwd: std::os::fd::OwnedFd, path: &str) -> Result<(), Cause> {
    linux::process::fchdir(&cwd)?;
    drop(cwd);
    match linux::process::getcwd() {
        Ok(_) => Ok(()),
        Err(_) if vocab::weak::without("cwd") => Ok(()),
        Err(error) => {
            Err(Cause::refused(RefusedKind::Forbidden, format!("{path}: outside of the container's root ({error})")))
        }
    }
}

/// A hard limit that may not be raised stays where it is, with a warning.
fn limits(process: &ProcessPlan, with: &Inherited) -> Result<(), Cause> {
    for limit in process.rlimits.iter().filter(|_| !vocab::weak::without("limits")) {
        let resource = Resource::from_name(&limit.name)
            .ok_or_else(|| Cause::refused(RefusedKind::Unsupported, format!("{} is not known", limit.name)))?;
        match rlimit::set(resource, Limit { soft: limit.soft, hard: limit.hard }) {
            Ok(()) => {}
            Err(error) if error.is(Errno::PERM) => {
                let ours = rlimit::get(resource)?;
                rlimit::set(resource, Limit { soft: limit.soft.min(ours.hard), hard: ours.hard })?;
                with.channel.warn(format!("{} stays at {}: {error}", limit.name, ours.hard));
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

fn identity(process: &ProcessPlan, setgroups: bool) -> Result<(), Cause> {
    let bounding = process.capabilities.map_or(0, |sets| sets.bounding);
    if !vocab::weak::without("bounding") {
        caps::limit_bounding(CapSet(bounding))?;
    }
    linux::process::set_keep_caps(true)?;
    if setgroups && !vocab::weak::without("groups") {
        linux::cred::set_groups(&process.groups)?;
    }
    linux::cred::set_gid(process.gid)?;
    linux::cred::set_uid(process.uid)?;
    linux::process::set_keep_caps(false)?;
    // What a change of user keeps is permitted, not effective; the filter of a process without no_new_privs needs the right to set it.
    let own = caps::get()?;
    caps::set(&Sets { effective: own.permitted, ..own })?;
    Ok(())
}

/// What was asked for, as far as this process has it: nobody can give what they do not have.
fn reachable(asked: CapabilitySets, with: &Inherited) -> Result<CapabilitySets, Cause> {
    let own = caps::get()?.permitted.0;
    let missing = asked.permitted & !own;
    if missing != 0 {
        let names: Vec<&str> = CapSet(missing).iter().filter_map(caps::Capability::name).collect();
        with.channel.warn(format!("not available to give away: {}", names.join(", ")));
    }
    let inheritable = if vocab::weak::without("inheritable") { own } else { asked.inheritable & own };
    Ok(CapabilitySets {
        bounding: asked.bounding,
        effective: asked.effective & own,
        permitted: asked.permitted & own,
        inheritable,
        ambient: asked.ambient & own & inheritable,
    })
}

fn rights(sets: CapabilitySets) -> Result<(), Cause> {
    caps::set(&Sets {
        effective: CapSet(sets.effective),
        permitted: CapSet(sets.permitted),
        inheritable: CapSet(sets.inheritable),
    })?;
    Ok(caps::set_ambient(CapSet(sets.ambient))?)
}

fn filter(process: &ProcessPlan, with: &mut Inherited, state: Option<serde_json::Value>) -> Result<(), Cause> {
    let Some(seccomp) = &process.seccomp else { return Ok(()) };
    crate::seccomp::install(seccomp, with, state)
}

fn close_on_exec(preserve_fds: u32) -> linux::Result<()> {
    if vocab::weak::without("descriptors") {
        return Ok(());
    }
    linux::exec::cloexec_from(3)?;
    for number in 3..3 + preserve_fds as i32 {
        if let Some(fd) = linux::exec::borrow_inherited(number) {
            linux::exec::dup_onto(fd, number)?;
        }
    }
    Ok(())
}

/// As execvp finds it, but found before anything is given up, so that a missing program is an error of create and not of start.
fn find_program(name: &str, env: &[String]) -> Result<CString, Cause> {
    let c_string = |path: String| {
        CString::new(path).map_err(|_| Cause::refused(RefusedKind::Invalid, "the program's path has a NUL byte"))
    };
    if name.contains('/') {
        return match linux::fs::check_executable(name) {
            Ok(()) => c_string(name.to_owned()),
            Err(error) => Err(exec_cause(name, error.errno())),
        };
    }
    let path = env.iter().find_map(|entry| entry.strip_prefix("PATH=")).unwrap_or(PATH_DEFAULT);
    let mut denied = false;
    for dir in path.split(':') {
        let full = if dir.is_empty() { format!("./{name}") } else { format!("{dir}/{name}") };
        match linux::fs::check_executable(&full) {
            Ok(()) => return c_string(full),
            Err(error) if error.is(Errno::ACCESS) => denied = true,
            Err(_) => {}
        }
    }
    Err(if denied {
        exec_cause(name, Errno::ACCESS)
    } else {
        Cause::refused(RefusedKind::NotFound, format!("{name:?}: executable file not found in $PATH"))
    })
}

/// In the words that Docker and Podman look for to choose between exit codes 126 and 127.
fn exec_cause(name: &str, errno: Errno) -> Cause {
    let (kind, text) = match errno {
        Errno::NOENT | Errno::NOTDIR => (RefusedKind::NotFound, "no such file or directory".to_owned()),
        Errno::ACCESS => (RefusedKind::Forbidden, "permission denied".to_owned()),
        Errno::PERM => (RefusedKind::Forbidden, "operation not permitted".to_owned()),
        Errno::NOEXEC => (RefusedKind::Invalid, "exec format error".to_owned()),
        Errno::ISDIR => (RefusedKind::Forbidden, "is a directory: permission denied".to_owned()),
        other => {
            let text = std::io::Error::from_raw_os_error(other.raw_os_error()).to_string();
            (RefusedKind::Internal, text.split(" (os error").next().unwrap_or_default().to_lowercase())
        }
    };
    Cause::refused(kind, format!("{name:?}: {text}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn home_comes_from_the_line_of_the_user_id() {
        let passwd =
            "root:x:0:0:root:/root:/bin/sh\nbroken\nweb:x:33:33::relative:/bin/sh\napp:x:1000:1000::/home/app:\n";
        for (uid, home) in [(0, Some("/root")), (1000, Some("/home/app")), (33, None), (7, None)] {
            assert_eq!(home_of(passwd, uid), home, "{uid}");
        }
    }
}
