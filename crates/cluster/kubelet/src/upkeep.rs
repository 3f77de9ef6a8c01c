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

/// When images go that no pod uses any more. The defaults are upstream's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ImageGc {
    /// Percent of the disk in use above which images go, and down to which.
    high_percent: u64,
    low_percent: u64,
    /// What pods used within this time stays.
    age_min: Duration,
}

impl Default for ImageGc {
    fn default() -> Self {
        Self { high_percent: 85, low_percent: 80, age_min: Duration::from_secs(120) }
    }
}

impl ImageGc {
    /// As the flags say it, where they do. A high mark of 100 means never.
    pub fn parse(high: Option<&str>, low: Option<&str>, age_min: Option<&str>) -> Result<Self, String> {
        let usual = Self::default();
        let percent = |flag: &str, text: Option<&str>, usual: u64| match text {
            None => Ok(usual),
            Some(text) => {
                let percent = text.parse().ok().filter(|percent| *percent <= 100);
                percent.ok_or_else(|| format!("--{flag} {text}: expected a percentage from 0 to 100"))
            }
        };
        let (high_flag, low_flag) = ("image-gc-high-threshold", "image-gc-low-threshold");
        let (high_percent, low_percent) =
            (percent(high_flag, high, usual.high_percent)?, percent(low_flag, low, usual.low_percent)?);
        if low_percent >= high_percent {
            return Err(format!(
                "--{low_flag} {low_percent}: it has to be below --{high_flag}, which is {high_percent}"
            ));
        }
        let age_min = match age_min {
            None => usual.age_min,
            Some(text) => vocab::duration::parse(text)
                .ok_or_else(|| format!("--minimum-image-ttl-duration {text}: expected a duration as 2m0s"))?,
        };
        Ok(Self { high_percent, low_percent, age_min })
    }

    fn is_over(&self, capacity: u64, used: u64) -> bool {
        capacity > 0 && self.high_percent < 100 && used > share(capacity, self.high_percent)
    }

    /// Bytes to free until the lower mark is reached.
    fn excess(&self, capacity: u64, used: u64) -> u64 {
        used.saturating_sub(share(capacity, self.low_percent))
    }
}

fn share(capacity: u64, percent: u64) -> u64 {
    (u128::from(capacity) * u128::from(percent) / 100) as u64
}

/// Looks after the node until it is dropped.
pub async fn run<R: Runtime>(doors: Arc<Doors<R>>) {
    let mut shortage = pressure::Shortage::default();
    loop {
        tokio::time::sleep(EVERY).await;
        let node = machine::read(doors.root());
        let now = Timestamp::now();
        note_images(&doors, now).await;
        let disk = node.disk;
        let images = doors.config.image_gc;
        if images.is_over(disk.capacity_bytes, disk.used_bytes()) {
            let wanted = images.excess(disk.capacity_bytes, disk.used_bytes());
            collect_images(&doors, now, wanted).await;
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
                let freed = collect_images(&doors, now, short.least.saturating_sub(short.left)).await;
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

/// Remembers which images pods use. What pods never used is not theirs to remove: people build and pull for themselves here.
async fn note_images<R: Runtime>(doors: &Doors<R>, now: Timestamp) {
    for seen in doors.runtime.containers(None).await.unwrap_or_default() {
        doors.used_images.note(&seen.image_id, now);
    }
}

/// Removes images that no pod uses any more and that a registry can give again, the longest unused first; bytes freed.
async fn collect_images<R: Runtime>(doors: &Doors<R>, now: Timestamp, wanted: u64) -> u64 {
    let images = doors.runtime.images().await.unwrap_or_default();
    let mut freed = 0;
    for image in choose(&images, &doors.used_images.all(), now, doors.config.image_gc.age_min) {
        if freed >= wanted {
            break;
        }
        match doors.runtime.remove_image(&image.id).await {
            Ok(()) => {
                tracing::info!(image = image.id, bytes = image.size_bytes, "removed an image that no pod uses");
                freed += image.size_bytes;
                doors.used_images.forget(&image.id);
            }
            // A container of somebody else's uses it.
            Err(error) => tracing::debug!(image = image.id, %error, "an image stays"),
        }
    }
    freed
}

/// Pure: candidates in order.
fn choose<'a>(
    images: &'a [ImageSeen],
    used: &BTreeMap<String, Timestamp>,
    now: Timestamp,
    age_min: Duration,
) -> Vec<&'a ImageSeen> {
    let age = |image: &ImageSeen| {
        let last = used.get(&image.id)?;
        Some(Duration::try_from(now.duration_since(*last)).unwrap_or_default())
    };
    let mut found: Vec<(Duration, &ImageSeen)> = images
        .iter()
        .filter(|image| !image.digests.is_empty())
        .filter_map(|image| Some((age(image).filter(|age| *age >= age_min)?, image)))
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
        let images_gc = ImageGc::default();
        let chosen = choose(&images, &used.into(), at(1000), images_gc.age_min);
        assert_eq!(chosen.iter().map(|image| image.id.as_str()).collect::<Vec<_>>(), ["older", "old"]);
        assert!(images_gc.is_over(100, 86) && !images_gc.is_over(100, 85) && !images_gc.is_over(0, 0));
        assert_eq!(images_gc.excess(100, 90), 10);
    }

    #[test]
    fn marks_are_percentages_and_in_order() {
        let check = |high, low, age: Option<&str>| ImageGc::parse(high, low, age);
        assert_eq!(check(None, None, None), Ok(ImageGc::default()));
        let all = check(Some("90"), Some("0"), Some("1h0m0s")).unwrap();
        assert_eq!((all.high_percent, all.low_percent, all.age_min.as_secs()), (90, 0, 3600));
        assert!(!check(Some("100"), None, None).unwrap().is_over(100, 100), "never");
        for (high, low, age) in [
            (Some("101"), None, None),
            (Some("-1"), None, None),
            (Some("80"), None, None),
            (None, Some("85"), None),
            (None, None, Some("2")),
        ] {
            assert!(check(high, low, age).is_err(), "{high:?} {low:?} {age:?}");
        }
    }
}
