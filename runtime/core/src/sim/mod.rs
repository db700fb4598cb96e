//! A seeded simulator. The coordinator, its workers' stream tables and slot leases, the readers of attempts and client, and
//! the client's result cursor run together over a network that delays, loses, repeats and reorders messages, on machines
//! that crash and freeze. After every step the rules of `audit` are checked. The same seed gives the same run.
//!
//! Within one session messages keep their order and a lost message breaks the session, as with TCP. Sessions overtake each
//! other, and so do fetches.

mod audit;
mod client;
mod defects;
mod division;
mod faults;
mod fetch;
mod filters;
mod joins;
mod limit;
mod live;
mod model;
mod node;
mod plan;
mod recovery;
mod session;
mod tests;
mod told;
mod world;
