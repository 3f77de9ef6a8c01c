//! Root file systems of containers that have ended: the kernel lets go of an overlay by writing everything that is dirty on the disk
//! below it, so that neither the end of a container nor its removal should wait for that, and many ends can share it.
//!
//! While a container runs the engine holds its root. When it has ended, that hold is given up a little later, in the background. By then a
//! container that was made for one command has been removed, and what it had need never be written at all.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;

use super::Container;
use super::inner::blocking;

/// How long roots are gathered. A start of the same container does not wait for it.
const GATHER: Duration = Duration::from_millis(500);

/// Lets go of the roots of containers that have ended, many at a time.
pub(crate) async fn let_roots_go(mut ended: mpsc::UnboundedReceiver<Arc<Container>>) {
    let mut batch = Vec::new();
    while ended.recv_many(&mut batch, 256).await > 0 {
        tokio::time::sleep(GATHER).await;
        let containers = std::mem::take(&mut batch);
        blocking(move || containers.iter().for_each(|container| container.let_root_go())).await;
    }
}
