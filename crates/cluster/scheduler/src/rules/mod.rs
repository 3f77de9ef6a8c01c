//! The rules, one a file. A filter says why a node cannot take a pod; a score says how good a node is, 0 to 100.

mod affinity;
mod fit;
mod image;
mod node;
mod pods;
mod ports;
mod spread;
mod taints;
mod volumes;

use crate::{Facts, NodeFacts, PodFacts};

/// Why a node cannot take a pod, in upstream's words.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Refusal {
    pub text: String,
    /// Taking pods away from the node could help.
    pub curable: bool,
}

impl Refusal {
    pub fn curable(text: impl Into<String>) -> Self {
        Self { text: text.into(), curable: true }
    }

    pub fn lasting(text: impl Into<String>) -> Self {
        Self { text: text.into(), curable: false }
    }
}

pub type Filter = fn(&PodFacts, &NodeFacts, &Facts<'_>) -> Result<(), Refusal>;
pub type Score = fn(&PodFacts, &NodeFacts, &Facts<'_>) -> i64;

/// In the order in which they are asked; the first refusal counts.
pub const FILTERS: &[Filter] = &[
    node::unschedulable,
    node::name,
    taints::filter,
    affinity::filter,
    ports::filter,
    fit::filter,
    volumes::filter,
    spread::filter,
    pods::filter,
];

/// With their weights, which are upstream's.
pub const SCORES: &[(Score, i64)] = &[
    (taints::score, 3),
    (affinity::score, 2),
    (fit::least_allocated, 1),
    (fit::balanced, 1),
    (pods::score, 2),
    (spread::score, 2),
    (image::score, 1),
];

pub use affinity::matches_term;
pub use taints::tolerates;
pub use volumes::{claims, waits_for_pod};
