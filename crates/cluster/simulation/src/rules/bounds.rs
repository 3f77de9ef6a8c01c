//! How many pods a deployment's spec has allowed lately. Whoever acts may still act on what stood there a moment ago.

use resources::Value;
use tokio::time::Instant;

use super::STALE;

/// Bounds of one spec: most pods, least available ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Bound {
    most: i64,
    least: i64,
}

#[derive(Debug, Default)]
pub struct Bounds {
    /// Each with when it was replaced by the next; the last still holds.
    lately: Vec<(Bound, Option<Instant>)>,
}

fn share(value: &Value, of: i64, up: bool) -> i64 {
    match value {
        Value::Number(number) => number.as_i64().unwrap_or(0),
        Value::String(text) => {
            let percent: i64 = text.trim_end_matches('%').parse().unwrap_or(0);
            if up { (of * percent + 99) / 100 } else { of * percent / 100 }
        }
        _ => 0,
    }
}

fn bound(deployment: &Value) -> Bound {
    let spec = &deployment["spec"];
    let wanted = spec["replicas"].as_i64().unwrap_or(1);
    if spec["strategy"]["type"] == "Recreate" {
        return Bound { most: wanted, least: 0 };
    }
    let rolling = &spec["strategy"]["rollingUpdate"];
    let surge = share(&rolling["maxSurge"], wanted, true);
    let mut unavailable = share(&rolling["maxUnavailable"], wanted, false);
    if surge == 0 && unavailable == 0 {
        unavailable = 1;
    }
    Bound { most: wanted + surge, least: (wanted - unavailable).max(0) }
}

impl Bounds {
    pub fn note(&mut self, deployment: &Value) {
        let (now, fresh) = (Instant::now(), bound(deployment));
        if self.lately.last().is_some_and(|(bound, _)| *bound == fresh) {
            return;
        }
        if let Some((_, replaced)) = self.lately.last_mut() {
            *replaced = Some(now);
        }
        self.lately.retain(|(_, replaced)| replaced.is_none_or(|at| now - at < STALE));
        self.lately.push((fresh, None));
    }

    fn recent(&self) -> impl Iterator<Item = Bound> {
        let now = Instant::now();
        self.lately
            .iter()
            .filter(move |(_, replaced)| replaced.is_none_or(|at| now - at < STALE))
            .map(|(bound, _)| *bound)
    }

    pub fn most(&self) -> i64 {
        self.recent().map(|bound| bound.most).max().unwrap_or(0)
    }

    pub fn least(&self) -> i64 {
        self.recent().map(|bound| bound.least).min().unwrap_or(0)
    }
}
