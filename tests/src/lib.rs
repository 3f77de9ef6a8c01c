//! The harness of the black-box tests: starts the built program in a world of its own and takes that world down again.
//!
//! It never links the crates it tests: what it knows is what a user can see.
