//! What pools and queries do under a real scheduler and controller manager: a test for each behaviour. Nodes are objects
//! alone, and every test has its own, which take no pods but those of the test's pools.

mod admission;
mod fixture;
mod objects;
mod oncall;
mod placement;
mod pools;
mod queries;
mod retries;
mod rolling;
mod script;
mod waiting;
