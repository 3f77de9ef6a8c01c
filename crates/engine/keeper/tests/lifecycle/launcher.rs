//! Starts plain programs: the plan is a list of arguments.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use keeper::{Job, Kind, Launcher, Launching, Stdio};
use linux::clone::{self, Child, CloneArgs, SingleThreaded};
use linux::{exec, pipe, process, pty, signal};
use runtime::{Cause, Event, Failure, RefusedKind};

#[derive(Debug)]
pub(crate) struct PlainLauncher {
    /// Put into the environment of what is started, so that it can be found afterwards.
    pub lab: std::path::PathBuf,
}

#[derive(Debug)]
struct Plain {
    pid: i32,
    pidfd: Option<OwnedFd>,
    report: OwnedFd,
    console: Option<OwnedFd>,
}

impl Launcher for PlainLauncher {
    fn launch(&self, token: &SingleThreaded, job: Job<'_>) -> Result<Box<dyn Launching>, Failure> {
        let argv: Vec<String> = postcard::from_bytes(job.plan)
            .map_err(|error| Cause::refused(RefusedKind::Invalid, error.to_string()).at("plan".into()))?;
        assert_eq!(job.gate.is_some(), job.kind == Kind::Container);
        let call = |error| Cause::Call(error).at("launch".into());
        let (console, stdio) = match (job.stdio, job.pipes) {
            (Stdio::Tty { rows, cols }, _) => {
                let (master, slave) = pty::open().map_err(call)?;
                pty::set_size(&master, pty::Size { rows, cols }).map_err(call)?;
                (Some(master), Some([slave.try_clone().unwrap(), slave.try_clone().unwrap(), slave]))
            }
            (_, pipes) => (None, pipes),
        };
        let (report, say) = pipe::pipe().map_err(call)?;
        let gate = job.gate;
        let lab = format!("KNARR_LAB={}", self.lab.display());
        let child = || {
            let run = || -> linux::Result<linux::Error> {
                signal::reset_for_exec()?;
                process::setsid()?;
                if let Some(stdio) = &stdio {
                    if matches!(job.stdio, Stdio::Tty { .. }) {
                        pty::set_controlling(&stdio[0])?;
                    }
                    for (fd, number) in stdio.iter().zip(0..) {
                        exec::dup_onto(fd, number)?;
                    }
                }
                // Above all the write end of its own gate.
                let mut keep = vec![say.as_fd()];
                keep.extend(gate.as_ref().map(AsFd::as_fd));
                exec::close_except(&keep)?;
                pipe::write(&say, b"R")?;
                if let Some(gate) = &gate
                    && pipe::read(gate, &mut [0])? == 0
                {
                    clone::exit_now(1);
                }
                let program = std::ffi::CString::new(argv[0].as_str()).unwrap();
                let argv = exec::CStrings::new(argv.iter().map(String::as_str))?;
                Ok(exec::execve(&program, &argv, &exec::CStrings::new(["PATH=/usr/bin:/bin", &lab])?))
            };
            let error = run().unwrap_or_else(|error| error);
            let _ = pipe::write(&say, &postcard::to_allocvec(&error).unwrap());
            1
        };
        let Child { pid, pidfd } = clone::spawn(token, &CloneArgs::default(), child).map_err(call)?;
        pipe::set_nonblocking(&report, true).map_err(call)?;
        Ok(Box::new(Plain { pid, pidfd: Some(pidfd), report, console }))
    }
}

impl Launching for Plain {
    fn pid(&self) -> i32 {
        self.pid
    }

    fn take_pidfd(&mut self) -> Option<OwnedFd> {
        self.pidfd.take()
    }

    fn warnings(&mut self) -> Vec<String> {
        Vec::new()
    }

    fn report(&self) -> BorrowedFd<'_> {
        self.report.as_fd()
    }

    fn poll(&mut self) -> Event {
        if let Some(master) = self.console.take() {
            return Event::Console(master);
        }
        let mut first = [0];
        match pipe::read(&self.report, &mut first) {
            Ok(0) => return Event::Started,
            Ok(_) if first == *b"R" => return Event::Ready,
            Ok(_) => {}
            Err(_) => return Event::Pending,
        }
        let mut bytes = first.to_vec();
        let _ = pipe::read_into(&self.report, &mut bytes, 4096);
        let error: linux::Error = postcard::from_bytes(&bytes).expect("an error");
        Event::Failed(Cause::Call(error).at("execute".into()))
    }

    fn commit(&mut self) -> linux::Result<()> {
        Ok(())
    }

    fn run_hooks(&mut self, _token: &SingleThreaded) -> Result<(), Failure> {
        Ok(())
    }
}
