//! Pure builders of every object that the operator creates.

pub mod affinity;
pub mod coordinator;
pub mod folders;
pub mod labels;
pub mod names;
pub mod pod;
pub mod pool;
pub mod quantity;
pub mod worker;

#[cfg(test)]
mod every_field;
#[cfg(test)]
mod tests;
