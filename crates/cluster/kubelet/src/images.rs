//! Where a container's image comes from: what the pull policy asks for (pure), and pulls that many pods share.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use tokio::sync::{Semaphore, watch};

use crate::runtime::Login;
use crate::runtime::{ImageSeen, Runtime, RuntimeError};

/// Pulls of one node that run at a time.
const AT_ONCE: usize = 4;

/// What a container's pull policy makes of what this node has. Pure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    Use,
    Pull,
    /// It is not here and must not be fetched.
    Refuse,
}

/// `Always` asks the registry that the image came from. An image that came from none (built, loaded or tagged here) is the
/// newest there is: its name would lead to somebody else's image, or to nobody's.
pub fn decide(policy: &str, name: &str, present: Option<&ImageSeen>) -> Decision {
    match (policy, present) {
        ("Never", None) => Decision::Refuse,
        ("Never", Some(_)) => Decision::Use,
        ("Always", Some(image)) if is_from_here(name, image) => Decision::Use,
        ("Always", _) | (_, None) => Decision::Pull,
        (_, Some(_)) => Decision::Use,
    }
}

/// Whether no registry gave this image under the repository of this name. A name that pins a digest always means what is here.
fn is_from_here(name: &str, image: &ImageSeen) -> bool {
    let Ok(reference) = name.parse::<vocab::Reference>() else { return true };
    let repository = reference.familiar_repository();
    reference.digest().is_some()
        || !image.digests.iter().any(|digest| digest.split('@').next() == Some(repository.as_str()))
}

/// How a pull ended.
#[derive(Debug, Clone, PartialEq)]
pub struct Pulled {
    pub outcome: Result<(), RuntimeError>,
    /// From the first wish to the end, and without the time in which others were pulled.
    pub waited: Duration,
    pub took: Duration,
}

/// When pods used which image last, by its id.
#[derive(Debug, Default)]
pub struct Used(Mutex<BTreeMap<String, Timestamp>>);

impl Used {
    pub fn note(&self, id: &str, now: Timestamp) {
        self.lock().insert(id.to_owned(), now);
    }

    pub fn forget(&self, id: &str) {
        self.lock().remove(id);
    }

    pub fn all(&self) -> BTreeMap<String, Timestamp> {
        self.lock().clone()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Timestamp>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Somebody's view of a pull.
pub type Pull = watch::Receiver<Option<Pulled>>;

type Key = (String, Vec<Login>);

/// All pulls of a node. A pull that several pods wish for runs once, and runs on when the pod that began it has gone.
#[derive(Clone)]
pub struct Pulls {
    running: Arc<Mutex<BTreeMap<Key, Pull>>>,
    places: Arc<Semaphore>,
}

impl Default for Pulls {
    fn default() -> Self {
        Self { running: Arc::default(), places: Arc::new(Semaphore::new(AT_ONCE)) }
    }
}

impl Pulls {
    /// Joins the pull of this image or begins it.
    pub fn pull<R: Runtime + Clone>(&self, runtime: &R, name: &str, logins: &[Login]) -> Pull {
        let key = (name.to_owned(), logins.to_vec());
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(pull) = running.get(&key) {
            return pull.clone();
        }
        let (tell, told) = watch::channel(None);
        running.insert(key.clone(), told.clone());
        drop(running);
        let (pulls, runtime) = (self.clone(), runtime.clone());
        tokio::spawn(async move {
            let begun = Instant::now();
            // The semaphore is never closed.
            let _place = pulls.places.acquire().await;
            let started = Instant::now();
            let outcome = try_logins(&runtime, &key.0, &key.1).await;
            pulls.running.lock().unwrap_or_else(PoisonError::into_inner).remove(&key);
            tell.send_replace(Some(Pulled { outcome, waited: begun.elapsed(), took: started.elapsed() }));
        });
        told
    }
}

/// One login after the other, until the registry gives the image; nobody's, if there is none.
async fn try_logins<R: Runtime>(runtime: &R, name: &str, logins: &[Login]) -> Result<(), RuntimeError> {
    let Some((first, rest)) = logins.split_first() else { return runtime.pull(name, &Login::default()).await };
    let mut outcome = runtime.pull(name, first).await;
    let mut said = Vec::new();
    for login in rest {
        let Err(error) = &outcome else { break };
        said.push(error.to_string());
        outcome = runtime.pull(name, login).await;
    }
    match outcome {
        Err(error) if !said.is_empty() => {
            said.push(error.to_string());
            said.dedup();
            Err(RuntimeError::Failed(said.join(", ")))
        }
        outcome => outcome,
    }
}

/// A duration as Go writes it, to the millisecond.
pub fn go_duration(duration: Duration) -> String {
    let millis = duration.as_millis();
    if millis < 1000 {
        return format!("{millis}ms");
    }
    let decimal = |whole: u128, thousandths: u128| {
        let text = format!("{whole}.{thousandths:03}");
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    };
    let (minutes, rest) = (millis / 60_000, millis % 60_000);
    let secs = decimal(rest / 1000, rest % 1000);
    match (minutes / 60, minutes % 60) {
        (0, 0) => format!("{secs}s"),
        (0, minutes) => format!("{minutes}m{secs}s"),
        (hours, minutes) => format!("{hours}h{minutes}m{secs}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(digests: &[&str]) -> ImageSeen {
        ImageSeen { digests: digests.iter().map(|text| text.to_string()).collect(), ..ImageSeen::default() }
    }

    #[test]
    fn the_policy_and_where_the_image_came_from_decide() {
        let digest = format!("r.example:5000/app@sha256:{}", "a".repeat(64));
        let (built, pulled) = (image(&[]), image(&[&digest]));
        let pinned = format!("r.example:5000/app@sha256:{}", "b".repeat(64));
        let rows = [
            ("IfNotPresent", "app", None, Decision::Pull),
            ("IfNotPresent", "app", Some(&built), Decision::Use),
            ("Never", "app", None, Decision::Refuse),
            ("Never", "app", Some(&built), Decision::Use),
            ("Always", "app", None, Decision::Pull),
            ("Always", "app", Some(&built), Decision::Use),
            ("Always", "r.example:5000/app:1", Some(&pulled), Decision::Pull),
            ("Always", "r.example:5000/other", Some(&pulled), Decision::Use),
            ("Always", pinned.as_str(), Some(&pulled), Decision::Use),
        ];
        for (policy, name, present, expected) in rows {
            assert_eq!(decide(policy, name, present), expected, "{policy} {name} {present:?}");
        }
    }

    #[test]
    fn durations_read_as_go_writes_them() {
        let rows =
            [(0, "0ms"), (950, "950ms"), (1000, "1s"), (1234, "1.234s"), (61_500, "1m1.5s"), (3_600_000, "1h0m0s")];
        for (millis, expected) in rows {
            assert_eq!(go_duration(Duration::from_millis(millis)), expected);
        }
    }
}
