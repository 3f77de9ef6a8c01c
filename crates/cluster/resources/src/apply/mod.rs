//! Server-side apply: who owns which field, what a writer's change takes from others, and where two disagree.
//!
//! [`Set`] is a set of field paths in the form of `managedFields` (FieldsV1). [`walk`] derives sets from objects;
//! [`managed`] keeps the books for updates and applies.

mod element;
mod managed;
mod set;
mod walk;

pub use element::Element;
pub use managed::{ApplyError, Conflict, Managers, Operation, Writer, apply, update};
pub use set::Set;
pub use walk::{Comparison, compare_unbooked, merge, mergeable, remove, to_set};
