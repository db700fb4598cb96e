//! The rules of both resources as pure functions. What the schema says (bounds, enums, patterns, unknown fields) is
//! read from the generated schema itself; what is a CEL rule there is a Rust rule here. One table of objects
//! ([`crate::cases`]) holds both to the same verdicts.

mod patterns;
mod pool;
mod query;
pub(crate) mod schema;
mod update;
mod volumes;

use std::fmt;

use crate::text::excerpt;

pub use pool::validate_pool;
pub use query::validate_query;
pub use update::validate_query_update;

/// One thing that is wrong with an object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// Path of the field, such as `spec.tables[2].location`.
    pub field: String,
    /// What is wrong with it; reads on after the field.
    pub problem: String,
    /// What to do about it.
    pub fix: String,
}

impl Problem {
    pub(crate) fn new(field: impl Into<String>, problem: impl Into<String>, fix: impl Into<String>) -> Self {
        Self {
            field: field.into(),
            problem: problem.into(),
            fix: fix.into(),
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}: {}", self.field, self.problem, self.fix)
    }
}

/// The name of an object: Kubernetes demands one, of this shape (a DNS subdomain, RFC 1123).
fn check_name(name: Option<&str>, problems: &mut Vec<Problem>) {
    const FIX: &str = "write 1 to 253 lower-case letters, digits, `-` and `.`, with a letter or digit at each end of \
                       every part between dots";
    let label = |part: &str| {
        let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        let ends = [part.bytes().next(), part.bytes().next_back()];
        ends.iter().all(|end| end.is_some_and(plain)) && part.bytes().all(|byte| plain(byte) || byte == b'-')
    };
    match name {
        None | Some("") => problems.push(Problem::new("metadata.name", "is missing", FIX)),
        Some(name) if name.len() > 253 || !name.split('.').all(label) => {
            problems.push(Problem::new(
                "metadata.name",
                format!("`{}` is not a name", excerpt(name)),
                FIX,
            ));
        }
        Some(_) => {}
    }
}

#[cfg(test)]
mod tests;
