//! Where a killed keeper's successor continues: the decision, and a proof by exhaustion that it neither loses nor doubles.

use super::journal::Intent;

/// What of the intended records is to be appended still.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Append {
    Nothing,
    /// All but the first so many bytes, which are there. Made again from the same bytes and time they are the same, so that a reader who has
    /// seen the first part goes on reading.
    From(u64),
}

/// What the successor does for the stream that the intent names, in this order. Then the intent is cleared, then the auxiliary pipe emptied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Recovery {
    pub append: Append,
    /// Bytes to be moved from the head of the container's pipe into the auxiliary pipe: they are in the log.
    pub consume: u64,
}

/// `log` is inode and length of the log file now, if there is one; `in_aux` the bytes in the auxiliary pipe.
pub(crate) fn recover(intent: &Intent, log: Option<(u64, u64)>, in_aux: u64) -> Recovery {
    let consume = intent.raw.saturating_sub(in_aux);
    if in_aux > 0 {
        // Consuming comes after the append.
        return Recovery { append: Append::Nothing, consume };
    }
    let there = match log {
        Some((inode, length)) if inode == intent.inode && length >= intent.offset => {
            (length - intent.offset).min(intent.encoded)
        }
        // Somebody moved or cut the file in between: the records go where the log is now.
        _ => 0,
    };
    let append = if there == intent.encoded { Append::Nothing } else { Append::From(there) };
    Recovery { append, consume }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::encode::Rest;
    use crate::model::Stream;

    /// The kernel's side of one stream: bytes are numbered, and each becomes a record of ten.
    #[derive(Default, Clone)]
    struct World {
        pipe: Vec<u32>,
        log: Vec<u32>,
        intent: Option<Intent>,
        aux: u64,
    }

    fn records(bytes: &[u32]) -> Vec<u32> {
        bytes.iter().flat_map(|byte| [*byte; 10]).collect()
    }

    impl World {
        /// Runs the keeper's steps and stops after `steps` of them, as `kill -9` would. If the last one is an append or a move, `torn` units of it
        /// arrive.
        fn batch(&mut self, steps: usize, torn: Option<usize>) {
            let raw = self.pipe.len();
            let encoded = records(&self.pipe);
            let intent = Intent {
                slot: 0,
                stream: Stream::Stdout,
                rest: Rest::Keep,
                raw: raw as u64,
                inode: 1,
                offset: self.log.len() as u64,
                encoded: encoded.len() as u64,
                time: (0, 0),
            };
            let torn_at = |step, all: usize| torn.filter(|_| steps == step).unwrap_or(all).min(all);
            if steps >= 1 && raw > 0 {
                self.intent = Some(intent);
            }
            if steps >= 2 {
                self.log.extend(&encoded[..torn_at(2, encoded.len())]);
            }
            if steps >= 3 {
                let moved = torn_at(3, raw);
                self.pipe.drain(..moved);
                self.aux += moved as u64;
            }
            if steps >= 4 {
                self.intent = None;
            }
            if steps >= 5 {
                self.aux = 0;
            }
        }

        /// Stops itself after `steps`, so that a successor of the successor is proved too.
        fn take_over(&mut self, steps: usize) {
            if let Some(intent) = self.intent {
                let recovery = recover(&intent, Some((1, self.log.len() as u64)), self.aux);
                if let Append::From(there) = recovery.append
                    && steps >= 1
                {
                    let again = records(&self.pipe[..intent.raw as usize]);
                    self.log.extend(&again[there as usize..]);
                }
                if steps >= 2 {
                    self.pipe.drain(..recovery.consume as usize);
                    self.aux += recovery.consume;
                }
            }
            if steps >= 3 {
                self.intent = None;
            }
            if steps >= 4 {
                self.aux = 0;
            }
        }
    }

    #[test]
    fn a_kill_after_any_step_neither_loses_nor_doubles_a_byte() {
        for before in 0..3 {
            for steps in 0..=5 {
                for torn in [None, Some(0), Some(1), Some(2), Some(13)] {
                    for arrives in 0..3 {
                        for again in 0..=4 {
                            let mut world = World { pipe: (0..before).collect(), ..World::default() };
                            world.batch(steps, torn);
                            // The container goes on writing while nobody reads.
                            world.pipe.extend(before..before + arrives);
                            world.take_over(again);
                            world.take_over(4);
                            world.batch(5, None);
                            let expected = records(&(0..before + arrives).collect::<Vec<_>>());
                            assert_eq!(world.log, expected, "{before} bytes, step {steps}, torn {torn:?}, {again}");
                            assert!(world.pipe.is_empty());
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn a_log_that_was_moved_away_gets_the_whole_batch() {
        let intent = Intent {
            slot: 0,
            stream: Stream::Stdout,
            rest: Rest::Keep,
            raw: 4,
            inode: 1,
            offset: 100,
            encoded: 40,
            time: (0, 0),
        };
        for log in [None, Some((2, 500)), Some((1, 20))] {
            assert_eq!(recover(&intent, log, 0), Recovery { append: Append::From(0), consume: 4 }, "{log:?}");
        }
        assert_eq!(recover(&intent, None, 3), Recovery { append: Append::Nothing, consume: 1 });
    }
}
