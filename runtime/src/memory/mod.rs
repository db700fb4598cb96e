//! The memory of a worker: operators, shuffle reads and writes, and the shuffle store all reserve it from one owner.

mod advice;
mod pool;

pub use pool::{WorkerMemory, is_about_memory};
