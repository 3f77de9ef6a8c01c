//! Programs in containers: begun for somebody who is connected, or run to their end or the end of patience.

use std::time::Duration;

use engine::{ExecConfig, ExecStart};

use crate::engine_runtime::{EngineRuntime, Resized, blocking, carry, told};
use crate::runtime::{Process, RuntimeError};

/// A program that has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ran {
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
    pub code: i32,
}

impl EngineRuntime {
    /// Begins a program; its id with the engine, and its streams.
    pub(crate) async fn begin_exec(
        &self,
        id: &str,
        command: &[String],
        tty: bool,
        stdin: bool,
    ) -> Result<(String, Process), RuntimeError> {
        let config = ExecConfig {
            cmd: command.to_vec(),
            tty,
            attach_stdin: stdin,
            attach_stdout: true,
            attach_stderr: true,
            ..ExecConfig::default()
        };
        let exec = self.engine().exec_create(id, config).await.map_err(told)?.to_string();
        let start = ExecStart { tty, ..ExecStart::default() };
        let attached = self.engine().exec_start(&exec, start).await.map_err(told)?;
        let attached = attached.ok_or_else(|| RuntimeError::Failed("the exec is detached".into()))?;
        let (engine, asked) = (self.engine().clone(), exec.clone());
        let exit = async move {
            // The output's end comes a moment before the exit is known.
            for _ in 0..500 {
                match engine.exec_inspect(&asked).await {
                    Ok(view) if view.running || view.exit_code.is_none() => {
                        tokio::time::sleep(Duration::from_millis(2)).await;
                    }
                    Ok(view) => return Ok(view.exit_code.unwrap_or(0)),
                    Err(error) => return Err(told(error)),
                }
            }
            Err(RuntimeError::Failed("the process closed its output and runs on".into()))
        };
        let process = carry(self.engine().clone(), attached, Resized::Exec(exec.clone()), exit);
        Ok((exec, process))
    }

    /// Runs a program; of each of its streams the first `bytes_max`. `None`: it did not end in time, and was killed.
    pub async fn run(
        &self,
        id: &str,
        command: &[String],
        limit: Option<Duration>,
        bytes_max: usize,
    ) -> Result<Option<Ran>, RuntimeError> {
        let (exec, mut process) = self.begin_exec(id, command, false, false).await?;
        let collected = async {
            let mut streams = [Vec::new(), Vec::new()];
            while let Some(piece) = process.output.recv().await {
                let stream = &mut streams[usize::from(piece.stderr)];
                let room = bytes_max.saturating_sub(stream.len());
                stream.extend_from_slice(&piece.bytes[..piece.bytes.len().min(room)]);
            }
            let code = process.exit.await.map_err(|_| RuntimeError::Failed("the process was lost".into()))??;
            let [stdout, stderr] = streams;
            Ok(Some(Ran { stdout, stderr, code }))
        };
        let Some(limit) = limit else { return collected.await };
        match tokio::time::timeout(limit, collected).await {
            Ok(ran) => ran,
            Err(_) => {
                // Nobody waits for it any more: a probe that hangs must not leave one process after the other.
                let pid = self.engine().exec_inspect(&exec).await.map(|view| view.pid).unwrap_or(0);
                if pid > 0 {
                    let killed = blocking(move || {
                        let process = linux::pidfd::open(pid);
                        let killed = process.and_then(|process| linux::pidfd::send_signal(&process, 9));
                        killed.map_err(|error| RuntimeError::Failed(error.to_string()))
                    });
                    if let Err(error) = killed.await {
                        tracing::debug!(%error, "a program that took too long has ended by itself");
                    }
                }
                Ok(None)
            }
        }
    }
}
