//! How many pods are made at a time, and what a refusal ends.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use client::{Answer, Events, Gvr, Listing, Request};
use serde_json::json;

use super::*;

/// Takes so many pods and refuses the rest. Notes how many were asked for at a time after how many had been made.
struct Room {
    pods: usize,
    asked: AtomicUsize,
    under_way: AtomicUsize,
    made: AtomicUsize,
    at_once: Mutex<Vec<(usize, usize)>>,
}

struct Door(Arc<Room>);

impl client::Api for Door {
    fn request<'a>(&'a self, _: &'a Gvr, request: Request) -> Answer<'a, Bytes> {
        Box::pin(async move {
            let room = &self.0;
            let (number, others) =
                (room.asked.fetch_add(1, Ordering::Relaxed), room.under_way.fetch_add(1, Ordering::Relaxed));
            room.at_once.lock().unwrap().push((room.made.load(Ordering::Relaxed), others + 1));
            // Others come meanwhile; not all take as long.
            for _ in 0..3 + number % 5 {
                tokio::task::yield_now().await;
            }
            room.under_way.fetch_sub(1, Ordering::Relaxed);
            if number >= room.pods {
                return Err(Status::new(403, "Forbidden", "exceeded quota"));
            }
            room.made.fetch_add(1, Ordering::Relaxed);
            Ok(request.body)
        })
    }

    fn list<'a>(&'a self, _: &'a Gvr, _: &'a str, _: &'a Selectors) -> Answer<'a, Listing> {
        unreachable!("nobody lists")
    }

    fn watch<'a>(&'a self, _: &'a Gvr, _: &'a str, _: &'a Selectors, _: u64) -> Answer<'a, Events> {
        unreachable!("nobody watches")
    }

    fn stopped(&self) -> std::pin::Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        Box::pin(std::future::pending())
    }
}

async fn make(pods: usize, wanted: usize) -> (Arc<Room>, Result<(), Status>, usize, usize) {
    let room = Arc::new(Room {
        pods,
        asked: AtomicUsize::new(0),
        under_way: AtomicUsize::new(0),
        made: AtomicUsize::new(0),
        at_once: Mutex::default(),
    });
    let pod = |number: usize| json!({"metadata": {"name": format!("p{number}"), "namespace": "d"}});
    let steps = (0..wanted).flat_map(|number| {
        let telling = Telling::New(json!({"metadata": {"name": format!("e{number}")}}));
        [Step::Write(Write::Create(Kind::Pod, pod(number))), Step::Tell(telling)]
    });
    let (mut effects, told) = (Vec::new(), AtomicUsize::new(0));
    let tell = |_: Telling| _ = told.fetch_add(1, Ordering::Relaxed);
    let done = carry_out(&Client::new(Door(room.clone())), steps.collect(), &mut effects, &tell).await;
    (room, done, effects.len(), told.into_inner())
}

#[tokio::test]
async fn ever_more_pods_are_made_at_a_time() {
    let (room, done, effects, told) = make(500, 500).await;
    assert_eq!((done, effects, told), (Ok(()), 500, 500));
    let at_once = room.at_once.lock().unwrap();
    assert!(at_once.iter().all(|(made, at_once)| *at_once <= (made + 1).min(PODS_AT_ONCE)), "{at_once:?}");
    let most = at_once.iter().map(|(_, at_once)| *at_once).max();
    assert!(most.is_some_and(|most| most > PODS_AT_ONCE / 2), "{most:?}");
}

#[tokio::test]
async fn a_refused_pod_ends_it_and_costs_few_requests() {
    for room_for in [0, 1, 10, 100] {
        let (room, done, effects, told) = make(room_for, 500).await;
        assert_eq!(done.unwrap_err().code, 403);
        assert_eq!((effects, told), (room_for, room_for), "what was made is known, and told");
        let asked = room.asked.load(Ordering::Relaxed);
        assert!(asked <= room_for + (room_for + 1).min(PODS_AT_ONCE), "{asked} requests, and room for {room_for}");
    }
}
