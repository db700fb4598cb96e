//! The memory of a worker: one owner, which operators, shuffle reads and writes and the shuffle store charge.

mod pool;

pub use pool::WorkerMemory;
