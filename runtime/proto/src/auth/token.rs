//! A token as it travels.

use std::fmt;
use std::path::Path;

use tonic::metadata::{Ascii, MetadataMap, MetadataValue};
use tonic::service::Interceptor;
use tonic::{Request, Status};

use super::AuthError;

pub(super) const METADATA_KEY: &str = "authorization";
/// Where a renewal of the token travels.
const RENEWAL_KEY: &str = "sluice-token-renewal";
const SCHEME: &str = "Bearer ";
/// The longest token that is looked at, bytes: that of a query names its folders.
pub(super) const MAX_TOKEN_BYTES: usize = 8192;

/// A token as it travels. It shows nothing of itself when it is printed.
#[derive(Clone)]
pub struct Token(MetadataValue<Ascii>);

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(..)")
    }
}

impl Token {
    /// Takes the text of a token; white space around it does not count.
    ///
    /// # Errors
    /// It cannot travel as metadata.
    pub fn new(text: &str) -> Result<Self, AuthError> {
        let text = text.trim();
        if text.is_empty() || text.len() > MAX_TOKEN_BYTES {
            return Err(AuthError::Malformed);
        }
        let mut value: MetadataValue<Ascii> = format!("{SCHEME}{text}")
            .parse()
            .map_err(|_| AuthError::Malformed)?;
        value.set_sensitive(true);
        Ok(Self(value))
    }

    /// Reads a token file.
    ///
    /// # Errors
    /// The file cannot be read, or holds no token.
    pub fn from_file(file: &Path) -> Result<Self, AuthError> {
        let text = std::fs::read_to_string(file).map_err(|error| AuthError::bad_file(file, error))?;
        Self::new(&text).map_err(|error| AuthError::bad_file(file, error))
    }

    /// The text without the scheme, as it goes into a Secret.
    pub fn as_text(&self) -> &str {
        self.0
            .to_str()
            .ok()
            .and_then(|text| text.strip_prefix(SCHEME))
            .unwrap_or_default()
    }

    /// Adds the token to a call.
    pub fn attach(&self, metadata: &mut MetadataMap) {
        metadata.insert(METADATA_KEY, self.0.clone());
    }

    /// Adds the token to a call as the renewal of another one.
    pub fn attach_renewal(&self, metadata: &mut MetadataMap) {
        metadata.insert(RENEWAL_KEY, self.0.clone());
    }

    /// The token that came with a call, if one did. Nothing is checked.
    pub fn of(metadata: &MetadataMap) -> Option<Self> {
        Self::at(metadata, METADATA_KEY)
    }

    /// The renewal that came with a call, if one did. Nothing is checked.
    pub(super) fn renewal_of(metadata: &MetadataMap) -> Option<Self> {
        Self::at(metadata, RENEWAL_KEY)
    }

    fn at(metadata: &MetadataMap, key: &'static str) -> Option<Self> {
        let text = metadata.get(key)?.to_str().ok()?;
        Self::new(text.strip_prefix(SCHEME)?).ok()
    }
}

/// Sends a token, if there is one, with every call of a client
/// (`WorkerClient::with_interceptor(channel, Bearer(token))`).
#[derive(Debug, Clone, Default)]
pub struct Bearer(pub Option<Token>);

impl Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(token) = &self.0 {
            token.attach(request.metadata_mut());
        }
        Ok(request)
    }
}
