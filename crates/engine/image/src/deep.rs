//! Walks of trees whose depth somebody else has chosen: a container can nest directories without end.

/// Enough for a level for every descriptor that a process may hold.
const STACK_BYTES: usize = 64 << 20;

/// Runs `walk` where recursion runs out of descriptors, which is an error, long before it runs out of stack, which ends the
/// process. The memory is only taken as far as it is used.
pub(crate) fn walk<T: Send>(walk: impl FnOnce() -> T + Send) -> std::io::Result<T> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().stack_size(STACK_BYTES).spawn_scoped(scope, walk)?;
        thread.join().map_err(|_| std::io::Error::other("walking a tree panicked"))
    })
}
