//! Who may speak to whom: tokens that the operator signs and that workers and coordinators check.
//!
//! A token is a JWT (RFC 7519) signed with Ed25519 (`alg: EdDSA`, RFC 8037). Its claims are `sub`, a query's unique id or
//! `operator`; `epoch`, the term of the query's coordinator (0 for the operator); and `exp`, seconds since 1970. It travels
//! as gRPC metadata, `authorization: Bearer <token>`. A process without a verifying key lets everybody in, which is local
//! mode.

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ed25519_dalek::pkcs8::spki::der::pem::LineEnding;
use ed25519_dalek::pkcs8::{DecodePrivateKey, DecodePublicKey, EncodePublicKey};
use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};
use serde::{Deserialize, Serialize};
use sluice_core::failure::FetchError;
use sluice_core::ids::{CoordinatorEpoch, QueryId};
use tonic::metadata::{Ascii, MetadataMap, MetadataValue};
use tonic::service::Interceptor;
use tonic::{Code, Request, Status};

use crate::stream::refuse_fetch_as;

/// The `sub` of the operator's own tokens. No query may have it as its id; a UID never is.
const OPERATOR: &str = "operator";
const METADATA_KEY: &str = "authorization";
const SCHEME: &str = "Bearer ";
/// The longest token that is looked at, bytes: ours have about 300.
const MAX_TOKEN_BYTES: usize = 4096;
/// The end of a PEM block of a public key.
const PEM_END: &str = "-----END PUBLIC KEY-----";

/// Why a key or token is no good, or does not open what it is shown for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AuthError {
    /// A key or token file cannot be read, or holds something else.
    #[error("{file}: {problem}")]
    BadFile {
        /// The file, or what the text was to be.
        file: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A query cannot be called like the operator.
    #[error("a query cannot have the id `{OPERATOR}`")]
    ReservedSubject,
    /// No token came with the call.
    #[error("the call has no token: send `authorization: Bearer <token>`")]
    Missing,
    /// What came is no token of ours.
    #[error("the token is malformed")]
    Malformed,
    /// Nobody whom we trust has signed it.
    #[error("the token is not signed by a key that this process trusts")]
    BadSignature,
    /// Its time is over.
    #[error("the token has expired")]
    Expired,
    /// It is good for something else.
    #[error("the token is for {0}")]
    WrongSubject(Subject),
    /// It is of another term of the query's coordinator than the call.
    #[error("the token is for coordinator epoch {token}, the call for {call}")]
    WrongEpoch {
        /// The token's.
        token: u64,
        /// The call's.
        call: u64,
    },
}

impl AuthError {
    fn bad_file(file: &Path, problem: impl fmt::Display) -> Self {
        Self::BadFile {
            file: file.display().to_string(),
            problem: problem.to_string(),
        }
    }
}

impl From<AuthError> for Status {
    fn from(error: AuthError) -> Self {
        let code = match error {
            AuthError::Missing | AuthError::Malformed | AuthError::BadSignature | AuthError::Expired => {
                Code::Unauthenticated
            }
            AuthError::WrongSubject(_) | AuthError::WrongEpoch { .. } => Code::PermissionDenied,
            AuthError::BadFile { .. } | AuthError::ReservedSubject => Code::Internal,
        };
        Self::new(code, error.to_string())
    }
}

/// For whom a token speaks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Subject {
    /// The coordinator of a query, and workers on its behalf.
    Query(QueryId),
    /// The operator.
    Operator,
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Query(query) => write!(f, "query {query}"),
            Self::Operator => f.write_str("the operator"),
        }
    }
}

/// What a token says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claims {
    /// For whom it speaks.
    pub subject: Subject,
    /// The term of the query's coordinator; 0 for the operator.
    pub epoch: CoordinatorEpoch,
    /// When it ends; whole seconds count.
    pub expires: SystemTime,
}

impl Claims {
    /// The claims of a query's coordinator of one term, good for `lifetime` from now.
    pub fn query(query: QueryId, epoch: CoordinatorEpoch, lifetime: Duration) -> Self {
        Self {
            subject: Subject::Query(query),
            epoch,
            expires: SystemTime::now() + lifetime,
        }
    }

    /// The claims of the operator, good for `lifetime` from now.
    pub fn operator(lifetime: Duration) -> Self {
        Self {
            subject: Subject::Operator,
            epoch: CoordinatorEpoch(0),
            expires: SystemTime::now() + lifetime,
        }
    }

    /// Whether they are of this query.
    ///
    /// # Errors
    /// They are of another one, or the operator's.
    pub fn opens_query(&self, query: &QueryId) -> Result<(), AuthError> {
        match &self.subject {
            Subject::Query(own) if own == query => Ok(()),
            other => Err(AuthError::WrongSubject(other.clone())),
        }
    }

    /// Whether they are of this term of this query's coordinator.
    ///
    /// # Errors
    /// They are not.
    pub fn opens_epoch(&self, query: &QueryId, epoch: CoordinatorEpoch) -> Result<(), AuthError> {
        self.opens_query(query)?;
        if self.epoch == epoch {
            return Ok(());
        }
        Err(AuthError::WrongEpoch {
            token: self.epoch.0,
            call: epoch.0,
        })
    }
}

/// The claims as they stand in a token.
#[derive(Serialize, Deserialize)]
struct Payload {
    sub: String,
    epoch: u64,
    exp: u64,
}

#[derive(Serialize, Deserialize)]
struct Header {
    alg: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    typ: Option<String>,
}

const ALGORITHM: &str = "EdDSA";

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

    /// The token that came with a call, if one did. Nothing is checked.
    pub fn of(metadata: &MetadataMap) -> Option<Self> {
        let text = metadata.get(METADATA_KEY)?.to_str().ok()?;
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

/// The key that signs tokens: the operator's.
pub struct TokenSigner(SigningKey);

impl fmt::Debug for TokenSigner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenSigner(..)")
    }
}

impl TokenSigner {
    /// Reads a PKCS#8 PEM text with an Ed25519 private key, as `openssl genpkey -algorithm ed25519` writes it.
    ///
    /// # Errors
    /// It is something else.
    pub fn from_pem(pem: &str) -> Result<Self, AuthError> {
        let key = SigningKey::from_pkcs8_pem(pem).map_err(|error| AuthError::BadFile {
            file: "the signing key".into(),
            problem: format!("no PKCS#8 PEM of an Ed25519 key: {error}"),
        })?;
        Ok(Self(key))
    }

    /// Reads such a file.
    ///
    /// # Errors
    /// It cannot be read, or holds something else.
    pub fn from_file(file: &Path) -> Result<Self, AuthError> {
        let text = std::fs::read_to_string(file).map_err(|error| AuthError::bad_file(file, error))?;
        Self::from_pem(&text).map_err(|error| AuthError::bad_file(file, error))
    }

    /// A new key of the machine's randomness, for a run that trusts nobody else.
    ///
    /// # Errors
    /// The machine gives no random bytes.
    pub fn generate() -> Result<Self, AuthError> {
        let source = Path::new("/dev/urandom");
        let mut secret = [0; 32];
        File::open(source)
            .and_then(|mut file| file.read_exact(&mut secret))
            .map_err(|error| AuthError::bad_file(source, error))?;
        Ok(Self(SigningKey::from_bytes(&secret)))
    }

    /// The public half, as PEM: what workers and coordinators verify with.
    pub fn public_pem(&self) -> String {
        // 32 bytes always have an encoding.
        self.0
            .verifying_key()
            .to_public_key_pem(LineEnding::LF)
            .unwrap_or_default()
    }

    /// Makes a token.
    ///
    /// # Errors
    /// [`AuthError::ReservedSubject`] for a query with the operator's name.
    pub fn sign(&self, claims: &Claims) -> Result<Token, AuthError> {
        let sub = match &claims.subject {
            Subject::Query(query) if query.as_str() == OPERATOR => return Err(AuthError::ReservedSubject),
            Subject::Query(query) => query.as_str().to_owned(),
            Subject::Operator => OPERATOR.to_owned(),
        };
        let header = Header {
            alg: ALGORITHM.to_owned(),
            typ: Some("JWT".to_owned()),
        };
        let payload = Payload {
            sub,
            epoch: claims.epoch.0,
            exp: seconds(claims.expires),
        };
        let signed = format!("{}.{}", encode(&header)?, encode(&payload)?);
        let signature = self.0.sign(signed.as_bytes());
        Token::new(&format!(
            "{signed}.{}",
            URL_SAFE_NO_PAD.encode(signature.to_bytes())
        ))
    }
}

fn encode(part: &impl Serialize) -> Result<String, AuthError> {
    let json = serde_json::to_vec(part).map_err(|_| AuthError::Malformed)?;
    Ok(URL_SAFE_NO_PAD.encode(json))
}

fn decode<T: serde::de::DeserializeOwned>(part: &str) -> Result<T, AuthError> {
    let json = URL_SAFE_NO_PAD.decode(part).map_err(|_| AuthError::Malformed)?;
    serde_json::from_slice(&json).map_err(|_| AuthError::Malformed)
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// The keys whose tokens count.
#[derive(Debug, Clone)]
pub struct TokenVerifier {
    keys: Vec<VerifyingKey>,
}

impl TokenVerifier {
    /// Reads one or several PEM blocks of Ed25519 public keys; several while keys change.
    ///
    /// # Errors
    /// There is none, or one of them is something else.
    pub fn from_pem(pem: &str) -> Result<Self, AuthError> {
        let bad = |problem: String| AuthError::BadFile {
            file: "the verifying key".into(),
            problem,
        };
        let mut keys = Vec::new();
        for block in pem
            .split_inclusive(PEM_END)
            .filter(|block| !block.trim().is_empty())
        {
            let key = VerifyingKey::from_public_key_pem(block.trim())
                .map_err(|error| bad(format!("no PEM of an Ed25519 public key: {error}")))?;
            keys.push(key);
        }
        if keys.is_empty() {
            return Err(bad("it holds no key".into()));
        }
        Ok(Self { keys })
    }

    /// Reads such a file.
    ///
    /// # Errors
    /// It cannot be read, or holds something else.
    pub fn from_file(file: &Path) -> Result<Self, AuthError> {
        let text = std::fs::read_to_string(file).map_err(|error| AuthError::bad_file(file, error))?;
        Self::from_pem(&text).map_err(|error| AuthError::bad_file(file, error))
    }

    /// What a token says, if it is good at `now`.
    ///
    /// # Errors
    /// Why it is not.
    pub fn verify(&self, token: &Token, now: SystemTime) -> Result<Claims, AuthError> {
        let (signed, signature) = token.as_text().rsplit_once('.').ok_or(AuthError::Malformed)?;
        let (header, payload) = signed.split_once('.').ok_or(AuthError::Malformed)?;
        let Header { alg, .. } = decode(header)?;
        // The algorithm is ours to choose, not the token's.
        if alg != ALGORITHM {
            return Err(AuthError::Malformed);
        }
        let signature = URL_SAFE_NO_PAD
            .decode(signature)
            .map_err(|_| AuthError::Malformed)?;
        let signature = Signature::from_slice(&signature).map_err(|_| AuthError::Malformed)?;
        let trusted = |key: &VerifyingKey| key.verify_strict(signed.as_bytes(), &signature).is_ok();
        if !self.keys.iter().any(trusted) {
            return Err(AuthError::BadSignature);
        }
        let Payload { sub, epoch, exp } = decode(payload)?;
        if exp <= seconds(now) {
            return Err(AuthError::Expired);
        }
        let subject = if sub == OPERATOR {
            Subject::Operator
        } else {
            Subject::Query(QueryId::new(sub).ok_or(AuthError::Malformed)?)
        };
        let expires = UNIX_EPOCH.checked_add(Duration::from_secs(exp));
        Ok(Claims {
            subject,
            epoch: CoordinatorEpoch(epoch),
            expires: expires.ok_or(AuthError::Malformed)?,
        })
    }
}

/// Stands before every call that a worker or coordinator serves. Without a verifier it lets everybody in.
#[derive(Debug, Clone, Default)]
pub struct Guard(Option<Arc<TokenVerifier>>);

impl Guard {
    /// A guard that checks tokens.
    pub fn new(verifier: TokenVerifier) -> Self {
        Self(Some(Arc::new(verifier)))
    }

    /// The claims of a call's token; `None` where nothing is checked.
    ///
    /// # Errors
    /// The call has no good token.
    pub fn authenticate(&self, metadata: &MetadataMap) -> Result<Option<Claims>, AuthError> {
        let Some(verifier) = &self.0 else {
            return Ok(None);
        };
        if !metadata.contains_key(METADATA_KEY) {
            return Err(AuthError::Missing);
        }
        let token = Token::of(metadata).ok_or(AuthError::Malformed)?;
        verifier.verify(&token, SystemTime::now()).map(Some)
    }

    /// Lets the operator in.
    ///
    /// # Errors
    /// The call has no good token of the operator.
    pub fn admit_operator(&self, metadata: &MetadataMap) -> Result<(), AuthError> {
        match self.authenticate(metadata)?.map(|claims| claims.subject) {
            None | Some(Subject::Operator) => Ok(()),
            Some(other) => Err(AuthError::WrongSubject(other)),
        }
    }

    /// Lets the operator in, and who has a token of the query.
    ///
    /// # Errors
    /// The call has no good token of either.
    pub fn admit_query_or_operator(&self, metadata: &MetadataMap, query: &QueryId) -> Result<(), AuthError> {
        match self.authenticate(metadata)? {
            None => Ok(()),
            Some(claims) if claims.subject == Subject::Operator => Ok(()),
            Some(claims) => claims.opens_query(query),
        }
    }

    /// Lets a fetch in: readers of the query that the data belongs to, sent by the coordinator of the epoch that the
    /// request names, if that one is not superseded by `latest`, the epoch that the worker has met last.
    ///
    /// # Errors
    /// The status to answer with; of a superseded reader it carries [`FetchError::StaleCoordinator`].
    pub fn admit_fetch(
        &self,
        metadata: &MetadataMap,
        (query, epoch): (&QueryId, CoordinatorEpoch),
        latest: Option<CoordinatorEpoch>,
    ) -> Result<(), Status> {
        let Some(claims) = self.authenticate(metadata)? else {
            return Ok(());
        };
        claims.opens_epoch(query, epoch)?;
        if latest.is_some_and(|latest| epoch < latest) {
            return Err(refuse_fetch_as(
                Code::PermissionDenied,
                FetchError::StaleCoordinator,
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
