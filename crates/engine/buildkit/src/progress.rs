//! What a build tells: vertices, transfers, output, warnings, in BuildKit's words. Kept from the first word on, so that
//! whoever asks late (a status stream, the history) hears all of it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use jiff::Timestamp;
use sha2::{Digest as _, Sha256};
use tokio::sync::watch;

use crate::wire::Time;
use crate::wire::control::{StatusResponse, Vertex, VertexLog, VertexStatus, VertexWarning};

/// Bytes of output that are kept of one step, as BuildKit clips them.
const STEP_OUTPUT_MAX: usize = 2 << 20;

#[derive(Debug)]
pub(crate) struct Progress {
    /// Makes digests of different builds differ.
    seed: String,
    told: Mutex<Told>,
    count: watch::Sender<Count>,
}

#[derive(Debug, Default)]
struct Told {
    messages: Vec<Arc<StatusResponse>>,
    output: HashMap<String, usize>,
    steps: HashMap<String, Step>,
    warnings: usize,
}

#[derive(Debug, Clone, Copy, Default)]
struct Step {
    completed: bool,
    cached: bool,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Count {
    messages: usize,
    over: bool,
}

/// How far a build came, in numbers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Steps {
    pub(crate) total: usize,
    pub(crate) completed: usize,
    pub(crate) cached: usize,
    pub(crate) warnings: usize,
}

impl Progress {
    pub(crate) fn new(seed: &str) -> Arc<Self> {
        Arc::new(Self { seed: seed.to_owned(), told: Mutex::default(), count: watch::Sender::default() })
    }

    /// A name for a vertex, unique to the build.
    pub(crate) fn digest(&self, of: &str) -> String {
        format!("sha256:{}", hex::encode(Sha256::digest(format!("{}\n{of}", self.seed))))
    }

    pub(crate) fn tell(&self, message: StatusResponse) {
        let mut told = self.told.lock().unwrap_or_else(|e| e.into_inner());
        for vertex in &message.vertexes {
            let step = told.steps.entry(vertex.digest.clone()).or_default();
            step.completed |= vertex.completed.is_some();
            step.cached |= vertex.cached;
        }
        told.warnings += message.warnings.len();
        told.messages.push(Arc::new(message));
        let messages = told.messages.len();
        self.count.send_modify(|count| count.messages = messages);
    }

    pub(crate) fn vertices(&self, vertexes: Vec<Vertex>) {
        self.tell(StatusResponse { vertexes, ..StatusResponse::default() });
    }

    pub(crate) fn status(&self, status: VertexStatus) {
        self.tell(StatusResponse { statuses: vec![status], ..StatusResponse::default() });
    }

    pub(crate) fn warn(&self, warning: VertexWarning) {
        self.tell(StatusResponse { warnings: vec![warning], ..StatusResponse::default() });
    }

    /// Output of a step; what is too much is left out, and that is said once.
    pub(crate) fn output(&self, vertex: &str, stderr: bool, mut bytes: Vec<u8>, at: Timestamp) {
        {
            let mut told = self.told.lock().unwrap_or_else(|e| e.into_inner());
            let so_far = told.output.entry(vertex.to_owned()).or_default();
            if *so_far > STEP_OUTPUT_MAX {
                return;
            }
            *so_far += bytes.len();
            if *so_far > STEP_OUTPUT_MAX {
                bytes.truncate(bytes.len() - (*so_far - STEP_OUTPUT_MAX));
                bytes.extend_from_slice(b"\n[output clipped, log limit 2MiB reached]\n");
                *so_far = STEP_OUTPUT_MAX + 1;
            }
        }
        let log = VertexLog {
            vertex: vertex.to_owned(),
            timestamp: Some(at.into()),
            stream: if stderr { 2 } else { 1 },
            msg: bytes,
        };
        self.tell(StatusResponse { logs: vec![log], ..StatusResponse::default() });
    }

    /// Nothing more will be told.
    pub(crate) fn finish(&self) {
        self.count.send_modify(|count| count.over = true);
    }

    pub(crate) fn steps(&self) -> Steps {
        let told = self.told.lock().unwrap_or_else(|e| e.into_inner());
        Steps {
            total: told.steps.len(),
            completed: told.steps.values().filter(|s| s.completed).count(),
            cached: told.steps.values().filter(|s| s.cached).count(),
            warnings: told.warnings,
        }
    }

    /// Everything that was told so far.
    pub(crate) fn messages(&self) -> Vec<Arc<StatusResponse>> {
        self.told.lock().unwrap_or_else(|e| e.into_inner()).messages.clone()
    }

    /// The next message after `heard` others; `None` when all were heard and no more will come.
    pub(crate) async fn next(&self, heard: usize) -> Option<Arc<StatusResponse>> {
        let mut count = self.count.subscribe();
        loop {
            let seen = *count.borrow_and_update();
            if seen.messages > heard {
                let told = self.told.lock().unwrap_or_else(|e| e.into_inner());
                return told.messages.get(heard).cloned();
            }
            if seen.over || count.changed().await.is_err() {
                return None;
            }
        }
    }
}

/// A vertex that is no step of the graph: loading, resolving, exporting. Over when it is dropped, as a failure unless it
/// was finished.
#[derive(Debug)]
pub(crate) struct Task {
    progress: Arc<Progress>,
    vertex: Vertex,
    over: bool,
}

impl Task {
    pub(crate) fn begin(progress: &Arc<Progress>, name: &str) -> Self {
        let vertex = Vertex {
            digest: progress.digest(name),
            name: name.to_owned(),
            started: Some(Timestamp::now().into()),
            ..Vertex::default()
        };
        progress.vertices(vec![vertex.clone()]);
        Self { progress: progress.clone(), vertex, over: false }
    }

    pub(crate) fn digest(&self) -> &str {
        &self.vertex.digest
    }

    /// A line under the vertex that counts bytes, or only takes its time.
    pub(crate) fn part(&self, name: &str) -> Part {
        let status = VertexStatus {
            id: name.to_owned(),
            vertex: self.vertex.digest.clone(),
            started: Some(Timestamp::now().into()),
            timestamp: Some(Timestamp::now().into()),
            ..VertexStatus::default()
        };
        self.progress.status(status.clone());
        Part { progress: self.progress.clone(), status }
    }

    pub(crate) fn done<T, E: std::fmt::Display>(mut self, result: &Result<T, E>) {
        self.end(result.as_ref().err().map(ToString::to_string).unwrap_or_default());
    }

    fn end(&mut self, error: String) {
        self.over = true;
        self.vertex.completed = Some(Timestamp::now().into());
        self.vertex.error = error;
        self.progress.vertices(vec![self.vertex.clone()]);
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        if !self.over {
            self.end("context canceled".into());
        }
    }
}

#[derive(Debug)]
pub(crate) struct Part {
    progress: Arc<Progress>,
    status: VertexStatus,
}

impl Part {
    pub(crate) fn current(&mut self, bytes: u64) {
        self.status.current = bytes as i64;
        self.status.timestamp = Some(Timestamp::now().into());
        self.progress.status(self.status.clone());
    }

    pub(crate) fn done(mut self) {
        let now = Time::from(Timestamp::now());
        self.status.timestamp = Some(now);
        self.status.completed = Some(now);
        self.progress.status(self.status);
    }
}
