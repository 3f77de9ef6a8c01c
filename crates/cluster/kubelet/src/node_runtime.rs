//! The runtime of a node as it was configured: the engine of this process, or another one at its socket.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use pods::{
    ContainerRequest, ContainerSeen, EngineRuntime, GroupRequest, ImageSeen, Limits, LogLine, LogQuery, Login,
    NetworkConfig, Pipe, Process, Runtime, RuntimeError, Sandbox, SandboxRequest, Traffic, Used,
};
use tokio::sync::mpsc;

use crate::cri_runtime::CriRuntime;

#[derive(Debug, Clone)]
pub enum NodeRuntime {
    Engine(EngineRuntime),
    Cri(CriRuntime),
}

type Answer<T> = Result<T, RuntimeError>;

/// Methods that ask whichever it is.
macro_rules! ask_either {
    ($(fn $name:ident($($argument:ident: $kind:ty),*) -> $answer:ty;)*) => {$(
        async fn $name(&self $(, $argument: $kind)*) -> $answer {
            match self {
                Self::Engine(runtime) => runtime.$name($($argument),*).await,
                Self::Cri(runtime) => runtime.$name($($argument),*).await,
            }
        }
    )*};
}

impl Runtime for NodeRuntime {
    ask_either! {
        fn network(config: &NetworkConfig) -> Answer<()>;
        fn sandbox(request: &SandboxRequest) -> Answer<Sandbox>;
        fn find_sandbox(uid: &str) -> Option<Sandbox>;
        fn remove_sandbox(uid: &str) -> Answer<()>;
        fn sandboxes() -> Vec<String>;
        fn group(request: &GroupRequest) -> Answer<()>;
        fn share_class(class: &'static str, shares: i64) -> Answer<()>;
        fn remove_groups() -> Answer<()>;
        fn limit(id: &str, limits: &Limits) -> Answer<()>;
        fn limits(id: &str) -> Answer<Limits>;
        fn image(name: &str) -> Answer<Option<ImageSeen>>;
        fn images() -> Answer<Vec<ImageSeen>>;
        fn pull(name: &str, login: &Login) -> Answer<()>;
        fn image_volume(request: &ContainerRequest, place: &Path) -> Answer<PathBuf>;
        fn remove_image(id: &str) -> Answer<()>;
        fn containers(pod_uid: Option<&str>) -> Answer<Vec<ContainerSeen>>;
        fn start(request: &ContainerRequest) -> Answer<String>;
        fn stop(id: &str, grace: Duration) -> Answer<()>;
        fn kill(id: &str) -> Answer<()>;
        fn remove(id: &str) -> Answer<()>;
        fn exec_sync(id: &str, command: &[String], timeout: Duration) -> Answer<(i32, String)>;
        fn exec(id: &str, command: &[String], tty: bool, stdin: bool) -> Answer<Process>;
        fn attach(id: &str, stdin: bool) -> Answer<Process>;
        fn logs(id: &str, query: &LogQuery) -> Answer<mpsc::Receiver<LogLine>>;
        fn connect(uid: &str, port: u16) -> Answer<Box<dyn Pipe>>;
        fn written(id: &str) -> Answer<u64>;
        fn used(id: &str) -> Answer<Option<Used>>;
        fn traffic(uid: &str) -> Answer<BTreeMap<String, Traffic>>;
        fn changes() -> Answer<mpsc::Receiver<String>>;
    }
}
