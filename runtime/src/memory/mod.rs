//! Memory of a worker: one pool that operators, shuffle buffers and fetched bytes are charged to.

mod pool;

pub use pool::WorkerMemory;
