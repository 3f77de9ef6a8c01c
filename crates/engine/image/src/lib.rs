//! Content store, images, layers and snapshots on overlay, garbage collection.
