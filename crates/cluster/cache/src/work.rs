//! Which keys a part has to look at. Pure: time comes in.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::Timestamp;

use crate::Key;

const FIRST_DELAY: Duration = Duration::from_millis(10);
const DELAY_MAX: Duration = Duration::from_secs(60);

/// Keys that are due, later, or being worked on. A key is never worked on twice at a time.
#[derive(Debug, Clone, Default)]
pub struct Queue {
    due: BTreeSet<Key>,
    later: BTreeMap<Key, Timestamp>,
    /// `later` again, by time.
    by_time: BTreeSet<(Timestamp, Key)>,
    busy: BTreeSet<Key>,
    failures: BTreeMap<Key, u32>,
}

impl Queue {
    pub fn add(&mut self, key: Key) {
        self.due.insert(key);
    }

    /// At `at`, unless an earlier look is planned.
    pub fn add_at(&mut self, key: Key, at: Timestamp) {
        if let Some(planned) = self.later.get(&key) {
            if *planned <= at {
                return;
            }
            self.by_time.remove(&(*planned, key.clone()));
        }
        self.by_time.insert((at, key.clone()));
        self.later.insert(key, at);
    }

    /// The next key that is due and not worked on.
    pub fn take(&mut self, now: Timestamp) -> Option<Key> {
        while self.by_time.first().is_some_and(|(at, _)| *at <= now) {
            let Some((_, key)) = self.by_time.pop_first() else { break };
            self.later.remove(&key);
            self.due.insert(key);
        }
        let key = self.due.iter().find(|key| !self.busy.contains(key))?.clone();
        self.due.remove(&key);
        self.busy.insert(key.clone());
        Some(key)
    }

    /// Work on a key ended. A failure brings it back after a while that doubles.
    pub fn done(&mut self, key: &Key, good: bool, again: Option<Duration>, now: Timestamp) {
        self.busy.remove(key);
        if good {
            self.failures.remove(key);
            if let Some(again) = again {
                self.add_at(key.clone(), now.saturating_add(again).unwrap_or(now));
            }
            return;
        }
        let failures = self.failures.entry(key.clone()).or_default();
        let delay = FIRST_DELAY.saturating_mul(1 << (*failures).min(16)).min(DELAY_MAX);
        *failures += 1;
        self.add_at(key.clone(), now.saturating_add(delay).unwrap_or(now));
    }

    /// When the next key comes due by time alone.
    pub fn next_at(&self) -> Option<Timestamp> {
        self.by_time.first().map(|(at, _)| *at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_worked_on_once_at_a_time_and_comes_back_after_failures() {
        let (mut queue, key) = (Queue::default(), Key::new("d", "a"));
        let at = |millis: i64| Timestamp::from_millisecond(millis).unwrap();
        queue.add(key.clone());
        queue.add(key.clone());
        assert_eq!(queue.take(at(0)), Some(key.clone()));
        queue.add(key.clone());
        assert_eq!(queue.take(at(0)), None, "it is being worked on");
        queue.done(&key, true, None, at(0));
        assert_eq!(queue.take(at(0)), Some(key.clone()), "it was asked for meanwhile");
        queue.done(&key, false, None, at(0));
        assert_eq!((queue.take(at(9)), queue.next_at()), (None, Some(at(10))));
        assert_eq!(queue.take(at(10)), Some(key.clone()));
        queue.done(&key, false, None, at(10));
        assert_eq!(queue.next_at(), Some(at(30)), "twice as long");
        queue.add(key.clone());
        assert_eq!(queue.take(at(11)), Some(key.clone()), "a change does not wait");
    }
}
