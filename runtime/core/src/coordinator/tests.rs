//! Events in, actions out: one behaviour a test.

mod broadcast;
mod empty;
mod ending;
mod filters;
mod fixture;
mod graphs;
mod joins;
mod layouts;
mod limits;
mod locality;
mod losses;
mod map_outputs;
mod measures;
mod poison;
mod ranges;
mod recovery;
mod release;
mod retries;
mod scheduling;
mod skew;
mod speculation;
mod stalls;
