//! `top`: the container's processes, read from the host's `/proc`. Nothing of the container's is run for it (RT-28).

use jiff::Timestamp;

use super::{Container, Inner};
use crate::{Error, Result, Status, TopTable};

/// Clock ticks a second, as `/proc` counts on every Linux that we run on.
const TICKS: u64 = 100;

#[derive(Debug, Default)]
struct Process {
    pid: i32,
    ppid: i32,
    state: char,
    tty: i32,
    cpu_ticks: u64,
    start_ticks: u64,
    threads: u64,
    virtual_kb: u64,
    resident_kb: u64,
    uid: u32,
    gid: u32,
    nice: i64,
    name: String,
    args: String,
}

impl Inner {
    /// Blocking.
    pub(crate) fn top(&self, container: &Container, ps_args: &str) -> Result<TopTable> {
        match container.status() {
            Status::Running | Status::Paused => {}
            Status::Restarting => {
                return Err(Error::Conflict(format!(
                    "Container {} is restarting, wait until the container is running",
                    container.id
                )));
            }
            _ => return Err(container.not_running()),
        }
        let columns = columns(ps_args)?;
        let pids = self.group(container)?.all_pids().map_err(|e| Error::internal("list processes", e))?;
        let now = Timestamp::now();
        let boot = linux::proc::boot_time().unwrap_or(0);
        let memory_kb = super::info::host_memory() / 1024;
        let mut processes: Vec<Process> = pids.into_iter().filter_map(read_process).collect();
        processes.sort_by_key(|p| p.pid);
        let facts = Facts { now, boot, memory_kb };
        let rows = processes.iter().map(|p| columns.iter().map(|c| (c.show)(p, &facts)).collect()).collect();
        self.container_event(container, "top", &[]);
        Ok(TopTable { titles: columns.iter().map(|c| c.title.to_owned()).collect(), processes: rows })
    }
}

struct Facts {
    now: Timestamp,
    boot: u64,
    memory_kb: u64,
}

impl Facts {
    fn age_secs(&self, p: &Process) -> u64 {
        let started = self.boot + p.start_ticks / TICKS;
        (self.now.as_second() as u64).saturating_sub(started)
    }
}

struct Column {
    title: &'static str,
    show: fn(&Process, &Facts) -> String,
}

/// Which columns `ps` would show. Words: the common option groups and `-o` lists.
fn columns(ps_args: &str) -> Result<Vec<Column>> {
    let words: Vec<&str> = ps_args.split_whitespace().collect();
    let list = |names: &[&str]| names.iter().map(|n| column(n).ok_or_else(|| unknown(n))).collect();
    match words[..] {
        [] | ["-ef"] | ["-e", "-f"] | ["-f"] => list(&["uid_name", "pid", "ppid", "c", "stime", "tty", "time", "cmd"]),
        ["aux" | "-aux" | "axu" | "u"] => {
            list(&["user", "pid", "%cpu", "%mem", "vsz", "rss", "tty", "stat", "start", "time", "command"])
        }
        ["-e" | "-A" | "ax" | "x"] => list(&["pid", "tty", "time", "comm"]),
        ["-o" | "o" | "-eo" | "-Ao" | "axo", fields] | ["-e" | "-A" | "ax", "-o" | "o", fields] => {
            let names: Vec<&str> = fields.split(',').filter(|n| !n.is_empty()).collect();
            if !names.contains(&"pid") {
                return Err(Error::Invalid("Couldn't find PID field in ps output".into()));
            }
            list(&names)
        }
        _ => Err(Error::Unsupported(format!(
            "ps arguments {ps_args:?} are not supported: use -ef, aux, -e or -o with a list of columns"
        ))),
    }
}

fn unknown(name: &str) -> Error {
    Error::Invalid(format!("error: unknown user-defined format specifier \"{name}\""))
}

fn column(name: &str) -> Option<Column> {
    let (title, show): (&'static str, fn(&Process, &Facts) -> String) = match name {
        "uid_name" => ("UID", |p, _| user(p.uid)),
        "user" | "euser" => ("USER", |p, _| user(p.uid)),
        "uid" | "euid" => ("UID", |p, _| p.uid.to_string()),
        "gid" | "egid" => ("GID", |p, _| p.gid.to_string()),
        "pid" => ("PID", |p, _| p.pid.to_string()),
        "ppid" => ("PPID", |p, _| p.ppid.to_string()),
        "c" => ("C", |p, f| (cpu_tenths(p, f) / 10).to_string()),
        "%cpu" | "pcpu" => ("%CPU", |p, f| tenths(cpu_tenths(p, f))),
        "%mem" | "pmem" => ("%MEM", |p, f| tenths(p.resident_kb * 1000 / f.memory_kb.max(1))),
        "vsz" | "vsize" => ("VSZ", |p, _| p.virtual_kb.to_string()),
        "rss" | "rssize" => ("RSS", |p, _| p.resident_kb.to_string()),
        "tty" | "tt" | "tname" => ("TTY", |p, _| tty(p.tty)),
        "stat" | "s" | "state" => ("STAT", |p, _| p.state.to_string()),
        "stime" => ("STIME", start),
        "start" | "start_time" => ("START", start),
        "time" | "cputime" => ("TIME", |p, _| clock(p.cpu_ticks / TICKS)),
        "etime" => ("ELAPSED", |p, f| clock(f.age_secs(p))),
        "nlwp" | "thcount" => ("NLWP", |p, _| p.threads.to_string()),
        "ni" | "nice" => ("NI", |p, _| p.nice.to_string()),
        "comm" | "ucmd" | "ucomm" => ("COMMAND", |p, _| p.name.clone()),
        "cmd" => ("CMD", |p, _| p.args.clone()),
        "args" | "command" => ("COMMAND", |p, _| p.args.clone()),
        _ => return None,
    };
    Some(Column { title, show })
}

/// The host's name for a user, as `ps` on the host would say it.
fn user(uid: u32) -> String {
    let passwd = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let name = passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(uid)).then(|| name.to_owned())
    });
    name.unwrap_or_else(|| uid.to_string())
}

fn cpu_tenths(p: &Process, f: &Facts) -> u64 {
    p.cpu_ticks * 1000 / TICKS / f.age_secs(p).max(1)
}

fn tenths(n: u64) -> String {
    format!("{}.{}", n / 10, n % 10)
}

fn clock(secs: u64) -> String {
    format!("{:02}:{:02}:{:02}", secs / 3600, secs / 60 % 60, secs % 60)
}

fn start(p: &Process, f: &Facts) -> String {
    let at = Timestamp::from_second((f.boot + p.start_ticks / TICKS) as i64).unwrap_or(f.now);
    let local = at.to_zoned(jiff::tz::TimeZone::system());
    if f.age_secs(p) < 86_400 { local.strftime("%H:%M").to_string() } else { local.strftime("%b%d").to_string() }
}

fn tty(number: i32) -> String {
    let (major, minor) = (number >> 8 & 0xfff, (number & 0xff) | (number >> 12 & 0xfff00));
    match major {
        0 => "?".into(),
        136..=143 => format!("pts/{}", (major - 136) * 256 + minor),
        4 => format!("tty{minor}"),
        _ => "?".into(),
    }
}

/// `None` if it has ended meanwhile.
fn read_process(pid: i32) -> Option<Process> {
    let stat = std::fs::read(format!("/proc/{pid}/stat")).ok()?;
    let mut process = parse_stat(pid, &String::from_utf8_lossy(&stat))?;
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let ids = |name: &str| {
        let line = status.lines().find_map(|l| l.strip_prefix(name))?;
        line.split_whitespace().nth(1)?.parse().ok()
    };
    process.uid = ids("Uid:").unwrap_or(0);
    process.gid = ids("Gid:").unwrap_or(0);
    let args = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let words: Vec<_> = args.split(|b| *b == 0).filter(|w| !w.is_empty()).map(String::from_utf8_lossy).collect();
    let line = if words.is_empty() { format!("[{}]", process.name) } else { words.join(" ") };
    // A process names itself as it likes: nothing of it may steer the reader's terminal (CP-06).
    process.args = line.chars().map(|c| if c.is_control() { '?' } else { c }).collect();
    Some(process)
}

fn parse_stat(pid: i32, text: &str) -> Option<Process> {
    let (open, close) = (text.find('(')?, text.rfind(')')?);
    let name = text.get(open + 1..close)?.chars().map(|c| if c.is_control() { '?' } else { c }).collect();
    let fields: Vec<&str> = text.get(close + 1..)?.split_whitespace().collect();
    let number = |at: usize| fields.get(at).and_then(|f| f.parse::<i64>().ok()).unwrap_or(0);
    Some(Process {
        pid,
        name,
        state: fields.first()?.chars().next()?,
        ppid: number(1) as i32,
        tty: number(4) as i32,
        cpu_ticks: (number(11) + number(12)) as u64,
        nice: number(16),
        threads: number(17) as u64,
        start_ticks: number(19) as u64,
        virtual_kb: number(20) as u64 / 1024,
        resident_kb: number(21) as u64 * 4,
        ..Default::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ps_arguments_choose_columns() {
        let titles = |args: &str| columns(args).map(|c| c.iter().map(|c| c.title).collect::<Vec<_>>().join(" ")).ok();
        assert_eq!(titles("").unwrap(), "UID PID PPID C STIME TTY TIME CMD");
        assert_eq!(titles("aux").unwrap(), "USER PID %CPU %MEM VSZ RSS TTY STAT START TIME COMMAND");
        assert_eq!(titles("-o pid,comm").unwrap(), "PID COMMAND");
        assert_eq!(titles("-o comm"), None);
        assert_eq!(titles("-o pid,what"), None);
        assert_eq!(titles("--forest"), None);
    }

    #[test]
    fn a_stat_line_with_a_hostile_name_is_read() {
        let line =
            format!("7 (a) (b\x1b) S 1 7 7 34816 7 0 0 0 0 0 100 50 0 0 20 0 3 0 5000 4096000 25 {}", "0 ".repeat(20));
        let process = parse_stat(7, &line).unwrap();
        assert_eq!(process.name, "a) (b?");
        assert_eq!((process.ppid, process.cpu_ticks, process.threads, process.resident_kb), (1, 150, 3, 100));
        assert_eq!(tty(process.tty), "pts/0");
    }
}
