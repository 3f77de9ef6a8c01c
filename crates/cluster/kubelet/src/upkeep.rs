//! Looking after the node: what is short, who has to go, and which images nobody needs.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use jiff::Timestamp;

use crate::actions::End;
use crate::manage::Doors;
use crate::pressure::{self, Signal};
use crate::runtime::{ImageSeen, Runtime};
use crate::stats::{self, machine};

const EVERY: Duration = Duration::from_secs(10);
/// Shares of the disk in use above which images go, and down to which: upstream's defaults.
const HIGH: f64 = 0.85;
const LOW: f64 = 0.80;
/// An image that pods used within this time stays.
const IMAGE_AGE: Duration = Duration::from_secs(120);

/// Looks after the node until it is dropped.
pub async fn run<R: Runtime>(doors: Arc<Doors<R>>) {
    let mut used: BTreeMap<String, Timestamp> = BTreeMap::new();
    let mut shortage = pressure::Shortage::default();
    loop {
        tokio::time::sleep(EVERY).await;
        let node = machine::read(doors.root());
        let now = Timestamp::now();
        note_images(&doors, &mut used, now).await;
        let disk = node.disk;
        if over(disk.capacity_bytes, disk.used_bytes(), HIGH) {
            collect_images(&doors, &mut used, now, excess(disk.capacity_bytes, disk.used_bytes())).await;
        }
        let crossed = shortage.note(doors.eviction(), &node, now);
        doors.pressure.lock().unwrap_or_else(PoisonError::into_inner).note(&crossed, now);
        for short in crossed.iter().filter(|short| short.due) {
            let what = match short.signal {
                Signal::Memory => "memory",
                Signal::Disk => "ephemeral-storage",
                Signal::Inodes => "inodes",
                Signal::Processes => "pids",
            };
            doors.node_event(true, "EvictionThresholdMet", &format!("Attempting to reclaim {what}"));
            if matches!(short.signal, Signal::Disk | Signal::Inodes) {
                // Images first: nobody misses them.
                let freed = collect_images(&doors, &mut used, now, short.least.saturating_sub(short.left)).await;
                if short.signal == Signal::Disk && freed >= short.least.saturating_sub(short.left) {
                    continue;
                }
            }
            let reading = stats::read(&doors).await;
            if let Some((uid, message)) = pressure::victim(&reading, short) {
                let within = if short.soft { doors.eviction().soft_grace_max } else { Some(End::AT_ONCE) };
                doors.order(&uid, End { within, ..End::failed("Evicted", message) });
                // One at a time: its going may be enough.
                break;
            }
        }
    }
}

fn over(capacity: u64, used: u64, share: f64) -> bool {
    capacity > 0 && used as f64 > capacity as f64 * share
}

/// Bytes to free until the lower mark is reached.
fn excess(capacity: u64, used: u64) -> u64 {
    used.saturating_sub((capacity as f64 * LOW) as u64)
}

/// Remembers which images pods use. What pods never used is not theirs to remove: people build and pull for themselves here.
async fn note_images<R: Runtime>(doors: &Doors<R>, used: &mut BTreeMap<String, Timestamp>, now: Timestamp) {
    for seen in doors.runtime.containers(None).await.unwrap_or_default() {
        used.insert(seen.image_id, now);
    }
}

/// Removes images that no pod uses any more and that a registry can give again, the longest unused first; bytes freed.
async fn collect_images<R: Runtime>(
    doors: &Doors<R>,
    used: &mut BTreeMap<String, Timestamp>,
    now: Timestamp,
    wanted: u64,
) -> u64 {
    let images = doors.runtime.images().await.unwrap_or_default();
    let mut freed = 0;
    for image in choose(&images, used, now) {
        if freed >= wanted {
            break;
        }
        match doors.runtime.remove_image(&image.id).await {
            Ok(()) => {
                tracing::info!(image = image.id, bytes = image.size_bytes, "removed an image that no pod uses");
                freed += image.size_bytes;
                used.remove(&image.id);
            }
            // A container of somebody else's uses it.
            Err(error) => tracing::debug!(image = image.id, %error, "an image stays"),
        }
    }
    freed
}

/// Pure: candidates in order.
fn choose<'a>(images: &'a [ImageSeen], used: &BTreeMap<String, Timestamp>, now: Timestamp) -> Vec<&'a ImageSeen> {
    let age = |image: &ImageSeen| {
        let last = used.get(&image.id)?;
        Some(Duration::try_from(now.duration_since(*last)).unwrap_or_default())
    };
    let mut found: Vec<(Duration, &ImageSeen)> = images
        .iter()
        .filter(|image| !image.digests.is_empty())
        .filter_map(|image| Some((age(image).filter(|age| *age >= IMAGE_AGE)?, image)))
        .collect();
    found.sort_by_key(|(age, _)| std::cmp::Reverse(*age));
    found.into_iter().map(|(_, image)| image).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_pulled_images_that_pods_have_done_with_go_and_the_oldest_first() {
        let image = |id: &str, pulled: bool| ImageSeen {
            id: id.into(),
            digests: if pulled { vec![format!("r/{id}@sha256:x")] } else { Vec::new() },
            ..ImageSeen::default()
        };
        let images =
            [image("new", true), image("old", true), image("older", true), image("built", false), image("other", true)];
        let at = |secs: i64| Timestamp::from_second(secs).unwrap();
        let used =
            [("new", 950), ("old", 500), ("older", 100), ("built", 1)].map(|(id, secs)| (id.to_owned(), at(secs)));
        let chosen = choose(&images, &used.into(), at(1000));
        assert_eq!(chosen.iter().map(|image| image.id.as_str()).collect::<Vec<_>>(), ["older", "old"]);
        assert!(over(100, 86, HIGH) && !over(100, 85, HIGH) && !over(0, 0, HIGH));
        assert_eq!(excess(100, 90), 10);
    }
}
