//! Where a killed writer's successor continues: the decision, and a proof by exhaustion that it neither loses nor doubles.

/// What the writer was about to do, in memory that outlives it. Cleared (`None`) before the sink is emptied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Intent {
    /// Length of the log file before the append (bytes).
    pub log_offset: u64,
    /// Length of the encoded records (bytes).
    pub encoded: u64,
    /// Bytes of the container's pipe that the records stand for.
    pub raw: u64,
}

/// What the successor does for the stream that the intent names, in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Recovery {
    /// Cut the log file to this length: the append did not finish, and the bytes are still in the container's pipe.
    pub truncate_log: Option<u64>,
    /// Discard this many bytes from the head of the container's pipe: they are in the log.
    pub discard: u64,
    // The sink is emptied in every case, after the intent is cleared.
}

/// `log_length` is the log file's length now, `sink` the bytes waiting in the sink.
pub fn recover(intent: Option<Intent>, log_length: u64, sink: u64) -> Recovery {
    let Some(intent) = intent else { return Recovery::default() };
    if log_length < intent.log_offset + intent.encoded {
        // The append comes before the splice: nothing has left the container's pipe.
        debug_assert_eq!(sink, 0, "{intent:?}");
        return Recovery { truncate_log: Some(intent.log_offset), discard: 0 };
    }
    Recovery { truncate_log: None, discard: intent.raw.saturating_sub(sink) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The kernel's side of one stream: bytes are numbered, and a record is as long as its bytes plus ten.
    #[derive(Default, Clone)]
    struct World {
        pipe: Vec<u32>,
        log: Vec<u32>,
        log_length: u64,
        intent: Option<Intent>,
        sink: u64,
    }

    impl World {
        /// Runs the writer's steps and stops after `steps` of them, as `kill -9` would. `torn` bytes of an append that is
        /// the last step arrive, and of a splice likewise.
        fn batch(&mut self, steps: usize, torn: Option<u64>) {
            let raw = self.pipe.len() as u64;
            let intent = Intent { log_offset: self.log_length, encoded: raw + 10, raw };
            let torn_at = |step| torn.filter(|_| steps == step);
            if steps >= 1 {
                self.intent = Some(intent);
            }
            if steps >= 2 {
                let written = torn_at(2).unwrap_or(intent.encoded).min(intent.encoded);
                self.log_length += written;
                if written == intent.encoded {
                    self.log.extend(&self.pipe);
                }
            }
            if steps >= 3 {
                let moved = torn_at(3).unwrap_or(raw).min(raw);
                self.pipe.drain(..moved as usize);
                self.sink += moved;
            }
            if steps >= 4 {
                self.intent = None;
            }
            if steps >= 5 {
                self.sink = 0;
            }
        }

        fn take_over(&mut self) {
            let recovery = recover(self.intent, self.log_length, self.sink);
            if let Some(length) = recovery.truncate_log {
                self.log_length = length;
            }
            self.pipe.drain(..recovery.discard as usize);
            self.intent = None;
            self.sink = 0;
        }
    }

    #[test]
    fn a_kill_after_any_step_neither_loses_nor_doubles_a_byte() {
        for before in 0..3 {
            for steps in 0..=5 {
                for torn in [None, Some(0), Some(1), Some(2)] {
                    for arrives in 0..3 {
                        let mut world = World { pipe: (0..before).collect(), ..World::default() };
                        world.batch(steps, torn);
                        // The container goes on writing while nobody reads.
                        world.pipe.extend(before..before + arrives);
                        world.take_over();
                        world.batch(5, None);
                        let expected: Vec<u32> = (0..before + arrives).collect();
                        assert_eq!(world.log, expected, "{before} bytes, killed after step {steps}, torn {torn:?}");
                        assert!(world.pipe.is_empty());
                    }
                }
            }
        }
    }
}
