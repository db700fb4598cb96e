//! Pure builders of every object that the operator creates: what a resource says goes in, an object comes out.

pub mod coordinator;
pub mod labels;
pub mod names;
pub mod pod;
