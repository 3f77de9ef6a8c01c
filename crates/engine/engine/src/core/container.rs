//! One container in memory: its record, what it does now, and who waits for it.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, RwLock};
use std::time::Duration;

use tokio::sync::{oneshot, watch};

use super::records::{ContainerRecord, StateRecord};
use crate::{ContainerId, ContainerState, Error, Result, Status, WaitCondition, WaitOutcome};

#[derive(Debug)]
pub(crate) struct Container {
    pub(crate) id: ContainerId,
    record: RwLock<Arc<ContainerRecord>>,
    live: Mutex<Live>,
    /// One operation that changes the container at a time. Held across I/O; the locks above never are.
    pub(crate) operation: tokio::sync::Mutex<()>,
    stage: watch::Sender<Stage>,
    /// The root file system of a run that is over, until the kernel may let go of it. Locked while it does.
    old_root: Mutex<Option<OwnedFd>>,
}

/// What those who follow a container need to know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    /// Not started, or ended.
    Idle,
    Running,
    /// Ended, and the restart policy will start it again.
    Between,
    Removed,
}

/// What changes while it lives.
#[derive(Debug, Default)]
pub(crate) struct Live {
    pub(crate) saved: StateRecord,
    /// Process 1, while it runs.
    pub(crate) pidfd: Option<Arc<OwnedFd>>,
    /// Its root file system, while it runs: see `roots`.
    pub(crate) root: Option<OwnedFd>,
    /// The last back-off of the restart policy.
    pub(crate) backoff: Duration,
    /// Cancels the pending restart.
    pub(crate) restart_timer: Option<tokio::task::AbortHandle>,
    /// What `stop` or `kill` asked for makes the next exit a user's wish.
    pub(crate) stop_asked: bool,
    /// A stop that is part of a restart: auto-remove does not apply.
    pub(crate) keep: bool,
    /// The keeper has been asked to start it and has not answered.
    pub(crate) starting: bool,
    /// Its end, told before its start was.
    pub(crate) early_exit: Option<keeper::Exited>,
    /// It runs, or has ended and its exit has not been dealt with.
    pub(crate) awaits_exit: bool,
    /// It has ended and the keeper still holds its exit.
    pub(crate) unforgotten: bool,
    /// Those who attached before the start.
    pub(crate) pending_sinks: Vec<keeper::client::Sink>,
    /// Gone from the registry; nothing is saved any more.
    pub(crate) removed: bool,
    /// Whether what it wrote has been delivered, for log drivers that deliver.
    pub(crate) shipped: Option<Arc<watch::Sender<bool>>>,
    waiters: Vec<(WaitCondition, oneshot::Sender<WaitOutcome>)>,
    pub(crate) execs: BTreeMap<crate::ExecId, Arc<super::exec::Exec>>,
    /// For exec: what was launched, as exec needs it.
    pub(crate) target: Option<Arc<runtime::ExecTarget>>,
}

impl Container {
    pub(crate) fn new(id: ContainerId, record: ContainerRecord, saved: StateRecord) -> Self {
        Self {
            id,
            record: RwLock::new(Arc::new(record)),
            live: Mutex::new(Live { saved, ..Default::default() }),
            operation: tokio::sync::Mutex::new(()),
            stage: watch::channel(Stage::Idle).0,
            old_root: Mutex::new(None),
        }
    }

    /// Lets go of the root file system of the last run. Blocks: the kernel writes what is dirty on the disk below first.
    pub(crate) fn let_root_go(&self) {
        drop(self.old_root.lock().unwrap_or_else(|e| e.into_inner()).take());
    }

    /// Keeps the root file system of a run that has ended until [`Container::let_root_go`].
    pub(crate) fn keep_root(&self, root: OwnedFd) {
        *self.old_root.lock().unwrap_or_else(|e| e.into_inner()) = Some(root);
    }

    /// Tells followers what the state is now.
    pub(crate) fn tell_stage(&self) {
        let stage = {
            let live = self.live();
            match live.saved.state.status {
                _ if live.removed => Stage::Removed,
                Status::Running | Status::Paused => Stage::Running,
                Status::Restarting => Stage::Between,
                _ => Stage::Idle,
            }
        };
        self.stage.send_replace(stage);
    }

    pub(crate) fn stages(&self) -> watch::Receiver<Stage> {
        self.stage.subscribe()
    }

    pub(crate) fn record(&self) -> Arc<ContainerRecord> {
        self.record.read().unwrap_or_else(|e| e.into_inner()).clone()
    }

    pub(crate) fn set_record(&self, record: ContainerRecord) {
        *self.record.write().unwrap_or_else(|e| e.into_inner()) = Arc::new(record);
    }

    pub(crate) fn name(&self) -> String {
        self.record().name.clone()
    }

    pub(crate) fn live(&self) -> MutexGuard<'_, Live> {
        self.live.lock().unwrap_or_else(|e| e.into_inner())
    }

    pub(crate) fn state(&self) -> ContainerState {
        self.live().saved.state.clone()
    }

    pub(crate) fn status(&self) -> Status {
        self.live().saved.state.status
    }

    /// The error for what needs a running container.
    pub(crate) fn not_running(&self) -> Error {
        Error::Conflict(format!("container {} is not running", self.id))
    }

    /// Process 1, or why there is none.
    pub(crate) fn pidfd(&self) -> Result<Arc<OwnedFd>> {
        self.live().pidfd.clone().ok_or_else(|| self.not_running())
    }

    /// Arms a wait.
    pub(crate) fn wait(&self, condition: WaitCondition) -> oneshot::Receiver<WaitOutcome> {
        let (sender, receiver) = oneshot::channel();
        let mut live = self.live();
        let state = &live.saved.state;
        let now = match condition {
            WaitCondition::NotRunning => !state.status.is_running(),
            WaitCondition::NextExit => false,
            WaitCondition::Removed => live.removed,
        };
        if now {
            let _ = sender.send(WaitOutcome { exit_code: state.exit_code, error: None });
        } else {
            // Those who went away meanwhile.
            live.waiters.retain(|(_, sender)| !sender.is_closed());
            live.waiters.push((condition, sender));
        }
        receiver
    }
}

impl Live {
    /// Tells those whose condition `event` fulfils.
    pub(crate) fn tell_waiters(&mut self, event: Told, outcome: &WaitOutcome) {
        let waiting = std::mem::take(&mut self.waiters);
        for (condition, sender) in waiting {
            let fulfilled = match event {
                Told::Exited => condition != WaitCondition::Removed,
                Told::Removed => true,
            };
            if fulfilled {
                let _ = sender.send(outcome.clone());
            } else {
                self.waiters.push((condition, sender));
            }
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Told {
    Exited,
    Removed,
}
