//! A way to the API that is slow, forgets answers, breaks watches and sometimes is not there at all.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use client::{Answer, Api, Client, EventSource, Events, Gvr, Listing, Request, Selectors, Status, Told};
use tokio::time::{Duration, Instant};

use crate::ledger::Ledger;
use crate::rng::Rng;

/// How bad it is; chances in thousandths.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Weather {
    /// A request is not carried out.
    pub refuses: u64,
    /// It is, but nobody hears of it.
    pub loses: u64,
    /// A batch of a watch's changes ends it.
    pub breaks: u64,
    /// The most that an answer takes, in milliseconds.
    pub slow_ms: u64,
    /// The most that a change takes to be seen, in milliseconds.
    pub lag_ms: u64,
}

impl Weather {
    pub const CALM: Self = Self { refuses: 0, loses: 0, breaks: 0, slow_ms: 20, lag_ms: 20 };
    pub const WINDY: Self = Self { refuses: 20, loses: 20, breaks: 10, slow_ms: 200, lag_ms: 800 };
    pub const STORM: Self = Self { refuses: 100, loses: 80, breaks: 60, slow_ms: 800, lag_ms: 3000 };
}

struct State {
    rng: Rng,
    weather: Weather,
    away_until: Option<Instant>,
}

/// What all ways to the API share.
#[derive(Clone)]
pub struct Faults {
    state: Arc<Mutex<State>>,
    ledger: Ledger,
}

impl Faults {
    pub fn new(rng: Rng, weather: Weather, ledger: &Ledger) -> Self {
        Self { state: Arc::new(Mutex::new(State { rng, weather, away_until: None })), ledger: ledger.clone() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn set(&self, weather: Weather) {
        self.ledger.tell(&format!("weather {weather:?}"));
        self.state().weather = weather;
    }

    /// Nobody reaches the API for a while.
    pub fn away(&self, time: Duration) {
        self.ledger.tell(&format!("the API is away for {time:?}"));
        self.state().away_until = Some(Instant::now() + time);
    }

    fn is_away(&self) -> bool {
        self.state().away_until.is_some_and(|until| Instant::now() < until)
    }

    /// A client of one part. `cut` cuts it off from the API.
    pub fn client(&self, inner: Client, who: &str, cut: &Cut) -> Client {
        Client::new(Faulty { inner, faults: self.clone(), who: who.to_owned(), cut: cut.clone() })
    }
}

/// Whether a part is cut off.
#[derive(Clone, Default)]
pub struct Cut(Arc<std::sync::atomic::AtomicBool>);

impl Cut {
    pub fn set(&self, cut: bool) {
        self.0.store(cut, std::sync::atomic::Ordering::Relaxed);
    }

    fn is(&self) -> bool {
        self.0.load(std::sync::atomic::Ordering::Relaxed)
    }
}

struct Faulty {
    inner: Client,
    faults: Faults,
    who: String,
    cut: Cut,
}

fn unavailable() -> Status {
    Status::new(503, "ServiceUnavailable", "simulated: the API cannot be reached")
}

fn timeout() -> Status {
    Status::new(504, "Timeout", "simulated: the answer was lost")
}

impl Faulty {
    /// What becomes of a request: time before it is carried out and after, and whether it is and is heard of.
    async fn before(&self, what: &str) -> Result<(u64, bool), Status> {
        if self.cut.is() || self.faults.is_away() {
            tokio::time::sleep(Duration::from_secs(1)).await;
            return Err(unavailable());
        }
        let (before, after, refused, lost) = {
            let mut state = self.faults.state();
            let weather = state.weather;
            let rng = &mut state.rng;
            let before = rng.below(weather.slow_ms + 1);
            (before, rng.below(weather.slow_ms + 1), rng.chance(weather.refuses), rng.chance(weather.loses))
        };
        tokio::time::sleep(Duration::from_millis(before)).await;
        if refused || self.cut.is() {
            self.faults.ledger.tell(&format!("refused {} {what}", self.who));
            return Err(unavailable());
        }
        Ok((after, lost))
    }
}

impl Api for Faulty {
    fn request<'a>(&'a self, of: &'a Gvr, request: Request) -> Answer<'a, Bytes> {
        Box::pin(async move {
            let what = format!("{} {} {}/{}", request.verb, of.plural, request.namespace, request.name);
            let (after, lost) = self.before(&what).await?;
            let answer = self.inner.request(of, request).await;
            if let Err(status) = &answer {
                self.faults.ledger.tell(&format!("answer {} {what}: {} {}", self.who, status.code, status.message));
            }
            if lost {
                self.faults.ledger.tell(&format!("lost {} {what}", self.who));
                self.faults.ledger.doubt();
                tokio::time::sleep(Duration::from_millis(after)).await;
                return Err(timeout());
            }
            tokio::time::sleep(Duration::from_millis(after)).await;
            answer
        })
    }

    fn list<'a>(&'a self, of: &'a Gvr, namespace: &'a str, selectors: &'a Selectors) -> Answer<'a, Listing> {
        Box::pin(async move {
            let (after, lost) = self.before(&of.plural).await?;
            let list = self.inner.listing(of, namespace, selectors).await;
            tokio::time::sleep(Duration::from_millis(after)).await;
            if lost { Err(timeout()) } else { list }
        })
    }

    fn watch<'a>(
        &'a self,
        of: &'a Gvr,
        namespace: &'a str,
        selectors: &'a Selectors,
        revision: u64,
    ) -> Answer<'a, Events> {
        Box::pin(async move {
            self.before(&of.plural).await?;
            let inner = self.inner.watch(of, namespace, selectors, revision).await?;
            Ok(Events::new(Lagging { inner, faults: self.faults.clone(), cut: self.cut.clone() }))
        })
    }

    fn stopped(&self) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        Box::pin(self.inner.stopped())
    }
}

/// A watch whose changes come late, or not at all: then it ends.
struct Lagging {
    inner: Events,
    faults: Faults,
    cut: Cut,
}

impl EventSource for Lagging {
    fn next(&mut self) -> Answer<'_, (Vec<Told>, u64)> {
        Box::pin(async move {
            let batch = self.inner.next_told().await?;
            let (lag, breaks) = {
                let mut state = self.faults.state();
                let weather = state.weather;
                (state.rng.below(weather.lag_ms + 1), state.rng.chance(weather.breaks))
            };
            tokio::time::sleep(Duration::from_millis(lag)).await;
            if self.cut.is() || self.faults.is_away() {
                tokio::time::sleep(Duration::from_secs(1)).await;
                return Err(unavailable());
            }
            if breaks { Err(Status::expired("simulated: too old")) } else { Ok(batch) }
        })
    }
}
