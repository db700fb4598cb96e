//! Memory of a worker.
