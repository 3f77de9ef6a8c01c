//! How plans become processes: through the runtime; in the keeper's own tests through something simpler.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use linux::clone::SingleThreaded;
use runtime::{Cause, Event, Failure, Gate, RefusedKind};

use crate::model::{Kind, Stdio};

/// What is to be launched.
#[derive(Debug)]
pub struct Job<'a> {
    pub kind: Kind,
    /// The plan as the engine encoded it.
    pub plan: &'a [u8],
    /// Pidfd of the container's first process, for an exec.
    pub target: Option<OwnedFd>,
    pub stdio: Stdio,
    /// Standard input, output and error, where they are pipes.
    pub pipes: Option<[OwnedFd; 3]>,
    /// The child waits for a byte here before it executes a container's program, and ends at the end of the stream: a keeper that dies before
    /// the engine knows of the child leaves none behind.
    pub gate: Option<OwnedFd>,
}

/// A cloned child on its way to its program.
pub trait Launching: std::fmt::Debug {
    fn pid(&self) -> i32;
    /// Called once.
    fn take_pidfd(&mut self) -> Option<OwnedFd>;
    fn warnings(&mut self) -> Vec<String>;
    /// Readable when there is news.
    fn report(&self) -> BorrowedFd<'_>;
    fn poll(&mut self) -> Event;
    /// Lets a child that said [`Event::Ready`] live on without its launcher: the engine knows of it.
    fn commit(&mut self) -> linux::Result<()>;
    /// Starts what the child waits for after [`Event::RuntimeHooks`]; does not wait for it.
    fn run_hooks(&mut self, token: &SingleThreaded) -> Result<(), Failure>;
}

pub trait Launcher {
    /// # Errors
    /// Nothing is left behind.
    fn launch(&self, token: &SingleThreaded, job: Job<'_>) -> Result<Box<dyn Launching>, Failure>;
}

/// Plans of the `runtime` crate.
#[derive(Debug, Default)]
pub struct RuntimeLauncher;

impl Launcher for RuntimeLauncher {
    fn launch(&self, token: &SingleThreaded, job: Job<'_>) -> Result<Box<dyn Launching>, Failure> {
        let stdio = match (job.stdio, job.pipes) {
            (Stdio::Null, _) => runtime::Stdio::Null,
            (Stdio::Pipes { .. }, Some([stdin, stdout, stderr])) => runtime::Stdio::Fds { stdin, stdout, stderr },
            (Stdio::Pipes { .. }, None) => return Err(refused("pipes without descriptors")),
            (Stdio::Tty { rows, cols }, _) => {
                // 0 by 0 is "not known yet": the terminal keeps its own default.
                let size = (rows != 0 || cols != 0).then_some(runtime::plan::ConsoleSize { rows, cols });
                runtime::Stdio::Terminal { size }
            }
        };
        match job.kind {
            Kind::Container => {
                let plan: runtime::Plan = decode(job.plan)?;
                let gate = job.gate.map_or(Gate::Open, |on| Gate::Wait { on, late_errors: None });
                let launched = runtime::launch(token, &plan, stdio, gate)?;
                Ok(Box::new(Child::new(launched, Some(plan))))
            }
            Kind::Exec => {
                let plan: runtime::ExecPlan = decode(job.plan)?;
                let target = job.target.ok_or_else(|| refused("an exec without its container"))?;
                Ok(Box::new(Child::new(runtime::launch_exec(token, &plan, &target, stdio)?, None)))
            }
        }
    }
}

fn decode<T: serde::de::DeserializeOwned>(bytes: &[u8]) -> Result<T, Failure> {
    postcard::from_bytes(bytes).map_err(|error| refused(format!("plan: {error}")))
}

fn refused(message: impl Into<String>) -> Failure {
    Cause::refused(RefusedKind::Internal, message).at("launch".into())
}

#[derive(Debug)]
struct Child {
    launched: runtime::Launched,
    pidfd: Option<OwnedFd>,
    plan: Option<runtime::Plan>,
    /// Hooks may take long, and other containers are waiting: they run in a process of their own.
    hooks: Option<runtime::HookRunner>,
}

impl Child {
    fn new(launched: runtime::Launched, plan: Option<runtime::Plan>) -> Self {
        // The keeper holds its own duplicate; the launch keeps the original for its hooks.
        let pidfd = launched.pidfd.try_clone().ok();
        Self { launched, pidfd, plan, hooks: None }
    }
}

impl Launching for Child {
    fn pid(&self) -> i32 {
        self.launched.pid
    }

    fn take_pidfd(&mut self) -> Option<OwnedFd> {
        self.pidfd.take()
    }

    fn warnings(&mut self) -> Vec<String> {
        std::mem::take(&mut self.launched.warnings)
    }

    fn report(&self) -> BorrowedFd<'_> {
        self.launched.report.as_fd()
    }

    fn poll(&mut self) -> Event {
        self.launched.report.poll()
    }

    fn commit(&mut self) -> linux::Result<()> {
        self.launched.report.commit()
    }

    fn run_hooks(&mut self, token: &SingleThreaded) -> Result<(), Failure> {
        let Some(plan) = &self.plan else { return Ok(()) };
        self.hooks = Some(runtime::start_runtime_hooks(token, plan, &self.launched)?);
        Ok(())
    }
}
