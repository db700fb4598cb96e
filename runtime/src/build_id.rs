//! Which build this program is.

/// The build of this program. Plan encoding and hash functions are not stable across builds, so sessions between
/// different ones are refused.
pub fn build_id() -> String {
    format!("{}+{}", env!("CARGO_PKG_VERSION"), env!("SLUICE_BUILD"))
}
