//! Rules for locations of tables and sinks. The text alone is judged here: whether a path leaves its folder by a
//! symbolic link is decided where files are opened.

/// Most bytes of one location.
pub const MAX_LOCATION_BYTES: usize = 1024;

/// A location has no control characters.
pub const LOCATION_PATTERN: &str = "^[^\\x00-\\x1f\\x7f-\\x9f]*$";

/// CEL: no `..` segment, neither plain nor percent-encoded.
pub(super) const PARENT_RULE: &str = r"!self.matches('(^|/|%2[fF])(\\.|%2[eE]){2}($|/|%2[fF])')";

/// CEL: no scheme but `file:///`.
pub(super) const SCHEME_RULE: &str =
    "self.startsWith('file:///') || !self.matches('^[A-Za-z][A-Za-z0-9+.-]*:')";

/// CEL: the rule holds for every item of a list of locations.
pub(super) fn every(rule: &str) -> String {
    format!("self.all(location, {})", rule.replace("self.", "location."))
}

/// Why a location is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LocationError {
    /// Nothing there.
    #[error("is empty")]
    Empty,
    /// NUL, line break or another control character.
    #[error("contains a control character")]
    ControlCharacter,
    /// A `..` segment, plain or percent-encoded.
    #[error("contains a `..` segment")]
    Parent,
    /// A scheme other than `file:///`.
    #[error("has the scheme `{0}`, which is not supported yet")]
    Scheme(String),
    /// `file:` without an absolute path.
    #[error("is a file URL without an absolute path")]
    FileUrl,
}

impl LocationError {
    /// What to do about it.
    pub const fn fix(&self) -> &'static str {
        match self {
            Self::Empty => "name a file or a folder",
            Self::ControlCharacter => {
                "remove it; a percent sign and two hex digits encode it in a file:/// URL"
            }
            Self::Parent => "write the path without `..`",
            Self::Scheme(_) => "use a path or a file:/// URL",
            Self::FileUrl => "write file:/// and the absolute path, or the path alone",
        }
    }
}

/// Whether a location may be used, by its text alone.
///
/// # Errors
///
/// What is wrong with it.
pub fn check_location(location: &str) -> Result<(), LocationError> {
    if location.is_empty() {
        return Err(LocationError::Empty);
    }
    let decoded = decode(location.as_bytes());
    if location.chars().any(char::is_control) || decoded.contains(&0) {
        return Err(LocationError::ControlCharacter);
    }
    if let Some(scheme) = scheme_of(location) {
        if !scheme.eq_ignore_ascii_case("file") {
            return Err(LocationError::Scheme(scheme.to_owned()));
        }
        if !location.starts_with("file:///") {
            return Err(LocationError::FileUrl);
        }
    }
    let has_parent = |bytes: &[u8]| bytes.split(|byte| *byte == b'/').any(|segment| segment == b"..");
    if has_parent(location.as_bytes()) || has_parent(&decoded) {
        return Err(LocationError::Parent);
    }
    Ok(())
}

/// The scheme of a URL (RFC 3986, 3.1), if there is one.
fn scheme_of(location: &str) -> Option<&str> {
    let (scheme, _) = location.split_once(':')?;
    let mut bytes = scheme.bytes();
    let starts = bytes.next().is_some_and(|byte| byte.is_ascii_alphabetic());
    (starts && bytes.all(|byte| byte.is_ascii_alphanumeric() || b"+.-".contains(&byte))).then_some(scheme)
}

/// Percent-decodes once. Malformed escapes stay as they are.
fn decode(bytes: &[u8]) -> Vec<u8> {
    let digit = |byte: Option<&u8>| byte.and_then(|byte| char::from(*byte).to_digit(16));
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    while let Some((first, tail)) = rest.split_first() {
        if *first == b'%'
            && let (Some(high), Some(low)) = (digit(tail.first()), digit(tail.get(1)))
            && let Ok(byte) = u8::try_from(high * 16 + low)
        {
            decoded.push(byte);
            rest = tail.get(2..).unwrap_or_default();
        } else {
            decoded.push(*first);
            rest = tail;
        }
    }
    decoded
}
