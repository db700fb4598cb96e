//! Events in, actions out: one behaviour a test.

mod ending;
mod graphs;
mod kit;
mod losses;
mod measures;
mod poison;
mod ranges;
mod retries;
mod scheduling;
mod stalls;
