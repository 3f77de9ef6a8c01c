//! A server that is being measured: starting it, what it uses, ending it.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::connection::{Access, Connection};
use crate::{Failure, at, progress, tell};

const STARTS: usize = 10;
const PATIENCE: Duration = Duration::from_secs(20);

/// A server of its own, on a root that is removed with it.
pub struct Process {
    child: Child,
    root: PathBuf,
    pub access: Access,
    /// From the start of the program to the first `ok` of `/readyz`.
    pub started_in: Duration,
}

impl Process {
    pub fn start(knarr: &Path, folder: &Path, flags: &[&str]) -> Result<Self, Failure> {
        let root = folder.join("server");
        let _ = std::fs::remove_dir_all(&root);
        std::fs::create_dir_all(&root)?;
        Self::start_on(knarr, root, flags)
    }

    fn start_on(knarr: &Path, root: PathBuf, flags: &[&str]) -> Result<Self, Failure> {
        let port = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let kubeconfig = root.join("kubeconfig");
        let _ = std::fs::remove_file(&kubeconfig);
        let log = std::fs::File::create(root.join("log"))?;
        let begun = Instant::now();
        let child = Command::new(knarr)
            .args(["server", "--no-node", "--address", "127.0.0.1", "--port", &port.to_string()])
            .arg("--root")
            .arg(root.join("root"))
            .arg("--run")
            .arg(root.join("run"))
            .arg("--kubeconfig")
            .arg(&kubeconfig)
            .args(flags)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()?;
        let mut process = Self { child, root, access: Access::default(), started_in: Duration::ZERO };
        loop {
            if let Ok(text) = std::fs::read_to_string(&kubeconfig)
                && let Ok(access) = Access::parse(&text)
                && let Ok(mut connection) = Connection::open(&access)
                && let Ok(answer) = connection.call("GET", "/readyz", &[], b"")
                && answer.status == 200
            {
                process.started_in = begun.elapsed();
                process.access = access;
                return Ok(process);
            }
            if let Some(status) = process.child.try_wait()? {
                return Err(format!("the server ended with {status}: {}", process.log()).into());
            }
            if begun.elapsed() > PATIENCE {
                return Err(format!("the server was not ready after {PATIENCE:?}: {}", process.log()).into());
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.root.join("log")).unwrap_or_default()
    }

    fn proc(&self, name: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/{name}", self.child.id()))
    }

    /// Kilobytes of a line of one of the kernel's tables, in MB.
    fn line(&self, file: &str, name: &str) -> Result<f64, Failure> {
        let text = std::fs::read_to_string(self.proc(file))?;
        let line = text.lines().find_map(|line| line.strip_prefix(name)).ok_or("a line is missing")?;
        Ok(line.split_whitespace().next().ok_or("an empty line")?.parse::<f64>()? / 1024.0)
    }

    /// Proportional set size in MB.
    pub fn pss(&self) -> Result<f64, Failure> {
        self.line("smaps_rollup", "Pss:")
    }

    pub fn resident(&self) -> Result<f64, Failure> {
        self.line("status", "VmRSS:")
    }

    /// Largest resident size since the last call of [`Self::forget_peak`].
    pub fn peak(&self) -> Result<f64, Failure> {
        self.line("status", "VmHWM:")
    }

    pub fn forget_peak(&self) -> Result<(), Failure> {
        Ok(std::fs::write(self.proc("clear_refs"), "5")?)
    }

    /// Time on a processor so far.
    pub fn cpu(&self) -> Result<Duration, Failure> {
        let text = std::fs::read_to_string(self.proc("stat"))?;
        let fields: Vec<&str> = text.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        let ticks = |at: usize| fields.get(at).and_then(|field| field.parse::<u64>().ok()).ok_or("no such field");
        // Linux tells them in hundredths of a second, whatever its own tick is.
        Ok(Duration::from_millis((ticks(11)? + ticks(12)?) * 10))
    }

    /// Ends the server as a stop of the machine's services does, and keeps its root.
    fn stop(&mut self) -> Result<(), Failure> {
        Command::new("kill").arg(self.child.id().to_string()).status()?;
        self.child.wait()?;
        Ok(())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.root);
    }
}

/// Starts on a new root, on one that is there, and in memory; and what a server at rest uses.
pub fn starts(knarr: &Path, folder: &Path) -> Result<(), Failure> {
    let figures = |name: &str, samples: &mut Vec<Duration>| {
        samples.sort();
        progress(&format!("{name}: {:.1} ms", at(samples, 0.5)));
        tell(name, json!({"wall_ms": at(samples, 0.5), "worst_ms": at(samples, 1.0)}));
    };
    let (mut new, mut again, mut ephemeral) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..STARTS {
        let mut process = Process::start(knarr, folder, &[])?;
        new.push(process.started_in);
        process.stop()?;
        let mut second = Process::start_on(knarr, process.root.clone(), &[])?;
        again.push(second.started_in);
        second.stop()?;
        ephemeral.push(Process::start(knarr, folder, &["--ephemeral"])?.started_in);
    }
    figures("start to ready, new cluster", &mut new);
    figures("start to ready, cluster that is there", &mut again);
    figures("start to ready, `--ephemeral`", &mut ephemeral);
    let process = Process::start(knarr, folder, &[])?;
    let before = process.cpu()?;
    std::thread::sleep(Duration::from_secs(10));
    let share = (process.cpu()? - before).as_secs_f64() * 10.0;
    let mb = process.pss()?;
    progress(&format!("at rest: {mb:.1} MB, {share:.1} % of a core"));
    tell("idle server", json!({"mb": mb, "cpu_percent": share}));
    Ok(())
}
