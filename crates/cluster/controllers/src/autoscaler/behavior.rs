//! How fast a wish may be followed: stabilization windows, and policies that bound the change within a period. Pure but for
//! what is remembered.

use jiff::{SignedDuration, Timestamp};
use resources::{Value, meta};

const DOWN_WINDOW_SECS: i64 = 300;
/// Nothing is remembered for longer: the longest window and period.
const REMEMBERED_SECS: i64 = 3600;

/// What was wished for and done lately. After a restart the memory begins with what is.
#[derive(Debug, Default)]
pub struct Memory {
    pub looked: Option<Timestamp>,
    pub generation: String,
    wishes: Vec<(Timestamp, i64)>,
    /// Positive: replicas added.
    changes: Vec<(Timestamp, i64)>,
}

type Why = (&'static str, &'static str);

impl Memory {
    /// Before the first wish: what is was wished for.
    pub fn begin(&mut self, current: i64, now: Timestamp) {
        if self.wishes.is_empty() {
            self.wishes.push((now, current));
        }
        let old = |at: &Timestamp| now.duration_since(*at).as_secs() > REMEMBERED_SECS;
        self.wishes.retain(|(at, _)| !old(at));
        self.changes.retain(|(at, _)| !old(at));
    }

    pub fn scaled(&mut self, change: i64, now: Timestamp) {
        self.changes.push((now, change));
    }

    /// Follows a wish only as far as all wishes of the window go along.
    pub fn stabilize(&mut self, rules: &Value, current: i64, wish: i64, now: Timestamp) -> (i64, Option<Why>) {
        let window = |way: &str, default: i64| rules[way]["stabilizationWindowSeconds"].as_i64().unwrap_or(default);
        let since = |secs: i64| now.checked_sub(SignedDuration::from_secs(secs)).unwrap_or(now);
        let (up_from, down_from) = (since(window("scaleUp", 0)), since(window("scaleDown", DOWN_WINDOW_SECS)));
        let after = |from: Timestamp| self.wishes.iter().filter(move |(at, _)| *at > from).map(|(_, wish)| *wish);
        let lowest = after(up_from).fold(wish, i64::min);
        let highest = after(down_from).fold(wish, i64::max);
        let steady = current.max(lowest).min(highest);
        self.wishes.push((now, wish));
        let why = match steady.cmp(&wish) {
            std::cmp::Ordering::Equal => None,
            std::cmp::Ordering::Greater => Some((
                "ScaleDownStabilized",
                "recent recommendations were higher than current one, applying the highest recent recommendation",
            )),
            std::cmp::Ordering::Less => Some((
                "ScaleUpStabilized",
                "recent recommendations were lower than current one, applying the lowest recent recommendation",
            )),
        };
        (steady, why)
    }

    /// Bounds a change by the policies of its direction and by the autoscaler's own range.
    pub fn limit(
        &self,
        rules: &Value,
        current: i64,
        wish: i64,
        least: i64,
        most: i64,
        now: Timestamp,
    ) -> (i64, &'static str, &'static str) {
        const WITHIN: (&str, &str) = ("DesiredWithinRange", "the desired count is within the acceptable range");
        let with = |allowed: i64, (reason, text): (&'static str, &'static str)| (allowed, reason, text);
        if wish > current {
            let bound = self.up(rules, current, now).max(current);
            return match wish > most.min(bound) {
                false => with(wish, WITHIN),
                true if bound >= most => {
                    with(most, ("TooManyReplicas", "the desired replica count is more than the maximum replica count"))
                }
                true => with(
                    bound,
                    ("ScaleUpLimit", "the desired replica count is increasing faster than the maximum scale rate"),
                ),
            };
        }
        if wish < current {
            let bound = self.down(rules, current, now).min(current);
            return match wish < least.max(bound) {
                false => with(wish, WITHIN),
                true if bound <= least => {
                    with(least, ("TooFewReplicas", "the desired replica count is less than the minimum replica count"))
                }
                true => with(
                    bound,
                    ("ScaleDownLimit", "the desired replica count is decreasing faster than the maximum scale rate"),
                ),
            };
        }
        with(wish, WITHIN)
    }

    /// Replicas at the beginning of a period.
    fn before(&self, current: i64, secs: i64, now: Timestamp) -> i64 {
        let recent = self.changes.iter().filter(|(at, _)| now.duration_since(*at).as_secs() < secs);
        current - recent.map(|(_, change)| change).sum::<i64>()
    }

    fn up(&self, rules: &Value, current: i64, now: Timestamp) -> i64 {
        let defaults = [("Percent", 100, 15), ("Pods", 4, 15)];
        let Some((policies, lowest)) = policies(&rules["scaleUp"], &defaults) else { return current };
        let bounds = policies.iter().map(|(kind, value, secs)| {
            let before = self.before(current, *secs, now);
            match kind.as_str() {
                "Pods" => before + value,
                _ => (before as f64 * (1.0 + *value as f64 / 100.0)).ceil() as i64,
            }
        });
        if lowest { bounds.min() } else { bounds.max() }.unwrap_or(i64::MAX)
    }

    fn down(&self, rules: &Value, current: i64, now: Timestamp) -> i64 {
        let Some((policies, lowest)) = policies(&rules["scaleDown"], &[("Percent", 100, 15)]) else { return current };
        let bounds = policies.iter().map(|(kind, value, secs)| {
            let before = self.before(current, *secs, now);
            match kind.as_str() {
                "Pods" => before - value,
                _ => (before as f64 * (1.0 - *value as f64 / 100.0)) as i64,
            }
        });
        // The smallest change leaves the most.
        if lowest { bounds.max() } else { bounds.min() }.unwrap_or(0)
    }
}

type Policies = Vec<(String, i64, i64)>;

/// The policies of a direction, and whether the one that changes least counts; nothing if the direction is closed.
fn policies(rules: &Value, defaults: &[(&str, i64, i64)]) -> Option<(Policies, bool)> {
    let select = rules["selectPolicy"].as_str().unwrap_or("Max");
    if select == "Disabled" {
        return None;
    }
    let given = meta::list_at(rules, &["policies"]);
    let number = |policy: &Value, field: &str| policy[field].as_i64().unwrap_or(0);
    let policies = match given.is_empty() {
        true => defaults.iter().map(|(kind, value, secs)| ((*kind).to_owned(), *value, *secs)).collect(),
        false => given
            .iter()
            .map(|policy| {
                let kind = policy["type"].as_str().unwrap_or_default().to_owned();
                (kind, number(policy, "value"), number(policy, "periodSeconds"))
            })
            .collect(),
    };
    Some((policies, select == "Min"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn at(secs: i64) -> Timestamp {
        Timestamp::from_second(1_000_000 + secs).unwrap()
    }

    #[test]
    fn windows_hold_back() {
        let mut memory = Memory::default();
        memory.begin(5, at(0));
        assert_eq!(memory.stabilize(&json!({}), 5, 2, at(15)).0, 5, "five minutes long the highest counts");
        assert_eq!(memory.stabilize(&json!({}), 5, 2, at(15)).1.unwrap().0, "ScaleDownStabilized");
        assert_eq!(memory.stabilize(&json!({}), 5, 8, at(30)), (8, None), "up at once");
        assert_eq!(memory.stabilize(&json!({}), 8, 3, at(331)), (3, None));
        let slow =
            json!({"scaleUp": {"stabilizationWindowSeconds": 60}, "scaleDown": {"stabilizationWindowSeconds": 0}});
        let mut memory = Memory::default();
        memory.begin(5, at(0));
        assert_eq!(memory.stabilize(&slow, 5, 9, at(10)).1.unwrap().0, "ScaleUpStabilized");
        assert_eq!(memory.stabilize(&slow, 5, 1, at(20)), (1, None));
    }

    #[test]
    fn policies_bound_the_change() {
        let policy = |kind: &str, value: i64| json!([{"type": kind, "value": value, "periodSeconds": 60}]);
        let up = |rules: Value| json!({"scaleUp": rules});
        let down = |rules: Value| json!({"scaleDown": rules});
        for (rules, current, wish, done, allowed, reason) in [
            (json!({}), 1, 10, 0, 5, "ScaleUpLimit"),
            (json!({}), 10, 15, 0, 15, "DesiredWithinRange"),
            (json!({}), 10, 90, 0, 20, "TooManyReplicas"),
            (json!({}), 10, 0, 0, 1, "TooFewReplicas"),
            (up(json!({"policies": policy("Pods", 2)})), 4, 10, 0, 6, "ScaleUpLimit"),
            (up(json!({"policies": policy("Pods", 2)})), 6, 10, 2, 6, "ScaleUpLimit"),
            (up(json!({"policies": policy("Percent", 50)})), 5, 10, 0, 8, "ScaleUpLimit"),
            (up(json!({"selectPolicy": "Disabled"})), 4, 10, 0, 4, "ScaleUpLimit"),
            (down(json!({"policies": policy("Percent", 10)})), 10, 1, 0, 9, "ScaleDownLimit"),
            (down(json!({"policies": policy("Pods", 1)})), 9, 1, -1, 9, "ScaleDownLimit"),
            (json!({}), 5, 5, 0, 5, "DesiredWithinRange"),
        ] {
            let mut memory = Memory::default();
            if done != 0 {
                memory.scaled(done, at(-30));
            }
            let (found, why, _) = memory.limit(&rules, current, wish, 1, 20, at(0));
            assert_eq!((found, why), (allowed, reason), "{rules} {current} -> {wish}");
        }
    }
}
