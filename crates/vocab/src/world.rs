//! Time and randomness as the program gets them from outside.
//!
//! Both are the machine's, unless a simulation has put its own in their place for its thread: then a whole cluster runs
//! there from a seed, as often as wanted and always the same. Deciding code takes neither from here; it gets them as arguments.

use std::cell::RefCell;
use std::time::SystemTime;

struct Simulated {
    now: Box<dyn Fn() -> i128>,
    random: u64,
}

thread_local! {
    static SIMULATED: RefCell<Option<Simulated>> = const { RefCell::new(None) };
}

/// While it lives, this thread's time and randomness are simulated.
#[derive(Debug)]
pub struct Simulation(());

impl Simulation {
    /// `now` answers nanoseconds since 1970; `seed` begins the sequence of random bytes.
    pub fn begin(seed: u64, now: impl Fn() -> i128 + 'static) -> Self {
        SIMULATED.with_borrow_mut(|place| *place = Some(Simulated { now: Box::new(now), random: seed }));
        Self(())
    }
}

impl Drop for Simulation {
    fn drop(&mut self) {
        SIMULATED.with_borrow_mut(|place| *place = None);
    }
}

/// Nanoseconds since 1970.
pub fn now_nanos() -> i128 {
    let simulated = SIMULATED.with_borrow(|place| place.as_ref().map(|simulated| (simulated.now)()));
    simulated.unwrap_or_else(|| match SystemTime::now().duration_since(SystemTime::UNIX_EPOCH) {
        Ok(since) => i128::try_from(since.as_nanos()).unwrap_or(i128::MAX),
        Err(before) => -i128::try_from(before.duration().as_nanos()).unwrap_or(i128::MAX),
    })
}

/// Fills `bytes` from the simulation's sequence; false if this thread has none: then the machine's randomness is to be used.
pub fn fill_simulated(bytes: &mut [u8]) -> bool {
    SIMULATED.with_borrow_mut(|place| {
        let Some(simulated) = place else { return false };
        for chunk in bytes.chunks_mut(8) {
            let word = split_mix(&mut simulated.random).to_le_bytes();
            chunk.copy_from_slice(&word[..chunk.len()]);
        }
        true
    })
}

/// The next of a sequence of random numbers; everything about it is in `state`. Not for secrets.
pub fn split_mix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_simulation_is_its_threads_alone_and_ends() {
        let mut bytes = [0; 12];
        assert!(!fill_simulated(&mut bytes));
        let take = || {
            let _simulation = Simulation::begin(7, || 42);
            let mut bytes = [0; 12];
            assert!(fill_simulated(&mut bytes));
            (now_nanos(), bytes)
        };
        assert_eq!(take(), take());
        assert_eq!(take().0, 42);
        let _simulation = Simulation::begin(7, || 42);
        let elsewhere = std::thread::spawn(|| (now_nanos(), fill_simulated(&mut [0; 4]))).join().unwrap();
        assert!(elsewhere.0 > 1_700_000_000_000_000_000 && !elsewhere.1);
    }
}
