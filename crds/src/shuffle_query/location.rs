//! Rules for locations of tables and sinks. The text alone is judged here: whether a path leaves its folder by a
//! symbolic link is decided where files are opened.

use std::str::FromStr;

use crate::text::excerpt;

/// Most bytes of one location.
pub const MAX_LOCATION_BYTES: usize = 1024;

/// Folders of the system and of Sluice itself. No table and no sink is in them.
pub const SYSTEM_FOLDERS: [&str; 6] = [
    "/etc/sluice",
    "/proc",
    "/sys",
    "/dev",
    "/var/run/secrets",
    "/run/secrets",
];

/// A location has no control characters.
pub const LOCATION_PATTERN: &str = "^[^\\x00-\\x1f\\x7f-\\x9f]*$";

// The regular expressions are short on purpose. The API server prices a CEL rule before it takes a CRD: bytes of the
// text (4 per character) / 10 times length of the expression / 4, times 64 locations times 64 tables, and refuses
// above 10 million: 20 characters are the most.

/// CEL: no `..` segment.
pub(super) const PARENT_RULE: &str = "!self.matches('(^|/)[.][.]($|/)')";
/// Message of [`PARENT_RULE`].
pub(super) const PARENT_MESSAGE: &str = "a location must not contain `..` segments";

/// CEL: no percent-encoded dot, slash or NUL.
pub(super) const ENCODED_RULE: &str = "!self.matches('%(2[eEfF]|00)')";
/// Message of [`ENCODED_RULE`].
pub(super) const ENCODED_MESSAGE: &str =
    "a location must not contain an encoded dot, slash or NUL (%2e, %2f, %00)";

/// CEL: no scheme but `file:///`.
pub(super) const SCHEME_RULE: &str = "self.startsWith('file:///') || !self.matches('^[^/]*:')";
/// Message of [`SCHEME_RULE`].
pub(super) const SCHEME_MESSAGE: &str = "only paths and file:/// URLs are supported yet";

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
    /// Longer than [`MAX_LOCATION_BYTES`].
    #[error("has {0} bytes")]
    TooLong(usize),
    /// NUL, line break or another control character.
    #[error("contains a control character")]
    ControlCharacter,
    /// A `..` segment.
    #[error("contains a `..` segment")]
    Parent,
    /// A percent-encoded dot, slash or NUL.
    #[error("contains an encoded dot, slash or NUL (%2e, %2f or %00)")]
    Encoded,
    /// A scheme other than `file:///`: an object store, or nothing that has files.
    #[error("has the scheme `{0}`, which is not supported yet")]
    Scheme(String),
    /// `file:` without an absolute path.
    #[error("is a file URL without an absolute path")]
    FileUrl,
    /// In one of [`SYSTEM_FOLDERS`].
    #[error("is in {0}, which is no place for tables or results")]
    System(&'static str),
}

impl LocationError {
    /// What to do about it.
    pub const fn fix(&self) -> &'static str {
        match self {
            Self::Empty => "name a file or a folder",
            Self::TooLong(_) => "write at most 1024 bytes",
            Self::ControlCharacter => {
                "remove it; in a file:/// URL a percent sign and two hex digits stand for it"
            }
            Self::Parent => "write the path without `..`",
            Self::Encoded => "write dots and slashes as they are",
            Self::Scheme(_) => {
                "use a path or a file:/// URL; a path with a colon in its first part starts with ./"
            }
            Self::System(_) => "name a folder of data",
            Self::FileUrl => "write file:/// and the absolute path, or the path alone",
        }
    }
}

/// Where the files of a table or a sink are. Only files of the machine are supported: the text of any other location,
/// one of an object store too, is refused when it is parsed, as [`LocationError::Scheme`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Location {
    /// A path. A relative one lies below a folder that its reader knows.
    Path(String),
    /// A `file:///` URL, escapes included.
    FileUrl(String),
}

impl FromStr for Location {
    type Err = LocationError;

    /// Judges the text alone.
    ///
    /// # Errors
    ///
    /// What is wrong with it.
    fn from_str(text: &str) -> Result<Self, LocationError> {
        if text.is_empty() {
            return Err(LocationError::Empty);
        }
        if text.len() > MAX_LOCATION_BYTES {
            return Err(LocationError::TooLong(text.len()));
        }
        if text.chars().any(char::is_control) {
            return Err(LocationError::ControlCharacter);
        }
        let location = Self::by_scheme(text)?;
        if text.split('/').any(|segment| segment == "..") {
            return Err(LocationError::Parent);
        }
        let mut escapes = text.split('%').skip(1).filter_map(|rest| rest.get(..2));
        if escapes.any(|code| {
            ["2e", "2f", "00"]
                .iter()
                .any(|refused| code.eq_ignore_ascii_case(refused))
        }) {
            return Err(LocationError::Encoded);
        }
        match location.system_folder() {
            Some(folder) => Err(LocationError::System(folder)),
            None => Ok(location),
        }
    }
}

impl Location {
    fn by_scheme(text: &str) -> Result<Self, LocationError> {
        if text.starts_with("file:///") {
            return Ok(Self::FileUrl(text.to_owned()));
        }
        let first = text.split('/').next().unwrap_or_default();
        match first.split_once(':') {
            None => Ok(Self::Path(text.to_owned())),
            Some((scheme, _)) if scheme.eq_ignore_ascii_case("file") => Err(LocationError::FileUrl),
            Some((scheme, _)) => Err(LocationError::Scheme(excerpt(scheme))),
        }
    }

    fn system_folder(&self) -> Option<&'static str> {
        match self {
            Self::Path(path) => system_folder(path),
            Self::FileUrl(url) => url
                .strip_prefix("file://")
                .and_then(|path| system_folder(&decoded(path))),
        }
    }
}

/// Which of [`SYSTEM_FOLDERS`] holds an absolute path, or is it.
pub fn system_folder(path: &str) -> Option<&'static str> {
    fn parts(path: &str) -> impl Iterator<Item = &str> {
        path.split('/').filter(|part| !matches!(*part, "" | "."))
    }
    let holds = |folder: &&str| {
        let mut of_path = parts(path);
        parts(folder).all(|part| of_path.next() == Some(part))
    };
    SYSTEM_FOLDERS
        .into_iter()
        .find(|folder| path.starts_with('/') && holds(folder))
}

/// The path of a file URL without its escapes; what is no text is left as it is.
fn decoded(path: &str) -> String {
    let mut bytes = Vec::with_capacity(path.len());
    let mut rest = path.as_bytes();
    while let [first, others @ ..] = rest {
        let code = others.get(..2).and_then(|code| std::str::from_utf8(code).ok());
        let code = code.filter(|code| code.bytes().all(|byte| byte.is_ascii_hexdigit()));
        match code.and_then(|code| u8::from_str_radix(code, 16).ok()) {
            Some(byte) if *first == b'%' => {
                bytes.push(byte);
                rest = others.get(2..).unwrap_or_default();
            }
            _ => {
                bytes.push(*first);
                rest = others;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests;
