//! The memory of a worker: one owner, which operators, shuffle reads and writes and the shuffle store charge.

mod advice;
mod pool;

pub use pool::{WorkerMemory, is_about_memory};
