//! What the encoder of a list remembers. Objects of a list are much alike: pods of one template have the same containers, the
//! same owner and the same managers to the byte. A part that begins as the one that stood there before has been encoded
//! already, and is copied.

use super::encode::Sink;
use super::json::Reader;
use crate::schema::Node;

const SLOTS: usize = 512;
/// Shorter parts are as quickly encoded as found.
const SHORT: usize = 16;
/// Parts that differ each time are looked for less often: after this many, only every `REST`th time.
const PATIENCE: u32 = 8;
const REST: u32 = 32;

/// Where a part stands in an object: the way to it, mixed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place(u32);

impl Place {
    pub(super) const TOP: Self = Self(1);

    #[inline]
    pub(super) fn at(self, number: usize) -> Self {
        Self((self.0 ^ (number as u32 + 1)).wrapping_mul(0x9e37_79b1).rotate_left(13))
    }

    #[inline]
    fn slot(self) -> usize {
        (self.0.wrapping_mul(0x9e37_79b1) >> 16) as usize % SLOTS
    }
}

/// What decides how a text is encoded, besides the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Way {
    /// The address of its node: nodes live longer than the memo.
    node: usize,
    number: u32,
    depth: usize,
}

#[derive(Debug)]
struct Slot<K> {
    way: Way,
    text: Vec<u8>,
    kept: K,
    misses: u32,
}

/// Empty for who encodes one object only.
#[derive(Debug)]
pub(super) struct Memo<K> {
    slots: Vec<Slot<K>>,
}

/// Begun before a part is encoded, to be ended behind it.
pub(super) struct Lesson {
    slot: usize,
    way: Way,
    text_from: usize,
    out_from: usize,
}

pub(super) enum Found {
    /// The part has been written.
    Known,
    Unknown(Option<Lesson>),
}

impl<K: Default> Memo<K> {
    pub(super) fn none() -> Self {
        Self { slots: Vec::new() }
    }

    pub(super) fn new() -> Self {
        let way = Way { node: 0, number: 0, depth: 0 };
        let slot = || Slot { way, text: Vec::new(), kept: K::default(), misses: 0 };
        Self { slots: std::iter::repeat_with(slot).take(SLOTS).collect() }
    }

    /// Looks for the object or list that comes next.
    #[inline]
    pub(super) fn find<S: Sink<Kept = K>>(
        &mut self,
        reader: &mut Reader<'_>,
        node: &Node,
        number: u32,
        place: Place,
        out: &mut S,
    ) -> Found {
        let number_of = place.slot();
        let Some(slot) = self.slots.get_mut(number_of) else { return Found::Unknown(None) };
        if slot.misses >= PATIENCE {
            slot.misses = slot.misses.wrapping_add(1).max(PATIENCE);
            if !slot.misses.is_multiple_of(REST) {
                return Found::Unknown(None);
            }
        }
        let way = Way { node: std::ptr::from_ref(node).addr(), number, depth: reader.depth() };
        // What begins with a whole object or list is that, whatever follows.
        if slot.way == way && !slot.text.is_empty() && reader.skip(&slot.text) {
            slot.misses = 0;
            out.replay(&slot.kept);
            return Found::Known;
        }
        if slot.misses < PATIENCE {
            slot.misses += 1;
        }
        Found::Unknown(Some(Lesson { slot: number_of, way, text_from: reader.at(), out_from: out.size() }))
    }

    #[inline]
    pub(super) fn learn<S: Sink<Kept = K>>(&mut self, lesson: Option<Lesson>, reader: &Reader<'_>, out: &S) {
        let Some(Lesson { slot, way, text_from, out_from }) = lesson else { return };
        let (slot, text) = (&mut self.slots[slot], reader.since(text_from));
        slot.text.clear();
        if text.len() >= SHORT {
            slot.way = way;
            slot.text.extend_from_slice(text);
            out.keep(out_from, &mut slot.kept);
        }
    }
}
