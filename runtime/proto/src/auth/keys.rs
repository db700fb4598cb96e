//! The keys that sign tokens and those that check them.

use std::fmt;
use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ed25519_dalek::pkcs8::spki::der::pem::LineEnding;
use ed25519_dalek::pkcs8::{DecodePrivateKey, DecodePublicKey, EncodePublicKey};
use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};
use serde::{Deserialize, Serialize};

use super::claims::Payload;
use super::{AuthError, Claims, Token};

const ALGORITHM: &str = "EdDSA";
/// The end of a PEM block of a public key, and of a private one.
const PUBLIC_END: &str = "-----END PUBLIC KEY-----";
const PRIVATE_END: &str = "-----END PRIVATE KEY-----";
/// Bytes of a public key that name it: 16 of 32, which two keys do not share by chance.
const KEY_ID_BYTES: usize = 16;
/// How often a file of public keys is read again, at the most: also for a token whose key is unknown.
const MIN_RELOAD_PERIOD: Duration = Duration::from_secs(1);
/// How old what was read of a file of public keys may be. A key that was removed is trusted no longer than that.
const RELOAD_PERIOD: Duration = Duration::from_secs(10);

#[derive(Serialize, Deserialize)]
struct Header {
    alg: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    typ: Option<String>,
    #[serde(default)]
    kid: String,
}

fn key_id(key: &VerifyingKey) -> String {
    let bytes = key.as_bytes();
    URL_SAFE_NO_PAD.encode(bytes.get(..KEY_ID_BYTES).unwrap_or(bytes))
}

fn blocks<'a>(pem: &'a str, end: &'a str) -> impl Iterator<Item = &'a str> {
    let blocks = pem.split_inclusive(end).map(str::trim);
    blocks.filter(|block| !block.is_empty())
}

/// The keys that sign tokens: the operator's.
#[derive(Clone)]
pub struct TokenSigner {
    /// Which of them signs.
    signing: usize,
    /// The oldest first, at least one.
    keys: Vec<SigningKey>,
}

impl fmt::Debug for TokenSigner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenSigner(..)")
    }
}

impl TokenSigner {
    /// Reads PKCS#8 PEM blocks with Ed25519 private keys, as `openssl genpkey -algorithm ed25519` writes them: the newest
    /// last, which signs.
    ///
    /// # Errors
    /// There is none, or one of them is something else.
    pub fn from_pem(pem: &str) -> Result<Self, AuthError> {
        let bad = |problem: String| AuthError::BadFile {
            file: "the signing key".into(),
            problem,
        };
        let read = |block| {
            SigningKey::from_pkcs8_pem(block)
                .map_err(|error| bad(format!("no PKCS#8 PEM of an Ed25519 key: {error}")))
        };
        let keys: Vec<_> = blocks(pem, PRIVATE_END).map(read).collect::<Result<_, _>>()?;
        let signing = keys
            .len()
            .checked_sub(1)
            .ok_or_else(|| bad("it holds no key".into()))?;
        Ok(Self { signing, keys })
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
        Ok(Self {
            signing: 0,
            keys: vec![SigningKey::from_bytes(&secret)],
        })
    }

    /// The same keys, where the second newest signs, if there is one: verifiers may not know the newest yet.
    #[must_use]
    pub fn before_newest(&self) -> Self {
        Self {
            signing: self.keys.len().saturating_sub(2),
            keys: self.keys.clone(),
        }
    }

    /// Whether there is more than one key.
    pub fn has_several(&self) -> bool {
        self.keys.len() > 1
    }

    /// The public halves, as PEM: what workers and coordinators verify with.
    pub fn public_pem(&self) -> String {
        let keys = self.keys.iter();
        // 32 bytes always have an encoding.
        keys.map(|key| {
            key.verifying_key()
                .to_public_key_pem(LineEnding::LF)
                .unwrap_or_default()
        })
        .collect()
    }

    /// Makes a token.
    ///
    /// # Errors
    /// [`AuthError::ReservedSubject`] for a query with the operator's name; [`AuthError::Malformed`] where it would be too
    /// long to travel.
    pub fn sign(&self, claims: &Claims) -> Result<Token, AuthError> {
        let key = self.keys.get(self.signing).ok_or(AuthError::BadSignature)?;
        let header = Header {
            alg: ALGORITHM.to_owned(),
            typ: Some("JWT".to_owned()),
            kid: key_id(&key.verifying_key()),
        };
        let signed = format!("{}.{}", encode(&header)?, encode(&Payload::try_from(claims)?)?);
        let signature = key.sign(signed.as_bytes());
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

/// The keys whose tokens count.
#[derive(Debug, Clone, PartialEq)]
pub struct TokenVerifier {
    pub(super) keys: Vec<VerifyingKey>,
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
        let read = |block| {
            VerifyingKey::from_public_key_pem(block)
                .map_err(|error| bad(format!("no PEM of an Ed25519 public key: {error}")))
        };
        let keys: Vec<_> = blocks(pem, PUBLIC_END).map(read).collect::<Result<_, _>>()?;
        if keys.is_empty() {
            return Err(bad("it holds no key".into()));
        }
        Ok(Self { keys })
    }

    /// What a token says, if it is good at `now`.
    ///
    /// # Errors
    /// Why it is not.
    pub fn verify(&self, token: &Token, now: SystemTime) -> Result<Claims, AuthError> {
        let claims = self.verify_signature(token)?;
        claims.check_time(now)?;
        Ok(claims)
    }

    /// What a token says, whenever it was good.
    pub(super) fn verify_signature(&self, token: &Token) -> Result<Claims, AuthError> {
        let (signed, signature) = token.as_text().rsplit_once('.').ok_or(AuthError::Malformed)?;
        let (header, payload) = signed.split_once('.').ok_or(AuthError::Malformed)?;
        let Header { alg, kid, .. } = decode(header)?;
        // The algorithm is ours to choose, not the token's.
        if alg != ALGORITHM {
            return Err(AuthError::Malformed);
        }
        let signature = URL_SAFE_NO_PAD
            .decode(signature)
            .map_err(|_| AuthError::Malformed)?;
        let signature = Signature::from_slice(&signature).map_err(|_| AuthError::Malformed)?;
        let trusted = |key: &VerifyingKey| {
            key_id(key) == kid && key.verify_strict(signed.as_bytes(), &signature).is_ok()
        };
        if !self.keys.iter().any(trusted) {
            return Err(AuthError::BadSignature);
        }
        Claims::try_from(decode::<Payload>(payload)?)
    }
}

/// The keys that this process trusts. Their file is read again while the process runs, so added keys are trusted and removed
/// keys are not, within seconds of the change. A file that cannot be read changes nothing. Clones share what was read.
#[derive(Debug, Clone)]
pub struct TrustedKeys {
    /// The file, unless they never change.
    path: Option<PathBuf>,
    read: Arc<Mutex<Read>>,
}

#[derive(Debug)]
struct Read {
    verifier: TokenVerifier,
    at: Instant,
}

impl TrustedKeys {
    /// Reads a PEM file with one or several Ed25519 public keys.
    ///
    /// # Errors
    /// It cannot be read, or holds something else.
    pub fn open(path: &Path) -> Result<Self, AuthError> {
        let verifier = Self::load(path)?;
        Ok(Self {
            path: Some(path.to_owned()),
            ..Self::from(verifier)
        })
    }

    fn load(path: &Path) -> Result<TokenVerifier, AuthError> {
        let text = std::fs::read_to_string(path).map_err(|error| AuthError::bad_file(path, error))?;
        TokenVerifier::from_pem(&text).map_err(|error| AuthError::bad_file(path, error))
    }

    pub(super) fn verify_signature(&self, token: &Token) -> Result<Claims, AuthError> {
        let verified = self.current(RELOAD_PERIOD).verify_signature(token);
        match verified {
            // Its key may be new.
            Err(AuthError::BadSignature) => self.current(MIN_RELOAD_PERIOD).verify_signature(token),
            verified => verified,
        }
    }

    /// The keys, read again if that was longer ago than `age`.
    fn current(&self, age: Duration) -> TokenVerifier {
        let mut read = self.lock();
        if let Some(path) = &self.path
            && read.at.elapsed() >= age
        {
            read.at = Instant::now();
            match Self::load(path) {
                Ok(verifier) if verifier != read.verifier => {
                    tracing::info!(keys = verifier.keys.len(), "the keys of tokens have changed");
                    read.verifier = verifier;
                }
                Ok(_) => {}
                Err(error) => tracing::warn!(%error, "the keys of tokens stay as they were"),
            }
        }
        read.verifier.clone()
    }

    fn lock(&self) -> MutexGuard<'_, Read> {
        self.read.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl From<TokenVerifier> for TrustedKeys {
    /// Keys that never change.
    fn from(verifier: TokenVerifier) -> Self {
        Self {
            path: None,
            read: Arc::new(Mutex::new(Read {
                verifier,
                at: Instant::now(),
            })),
        }
    }
}

#[cfg(test)]
impl TrustedKeys {
    /// As if the file had not been read for long.
    pub(super) fn age(&self) {
        let mut read = self.lock();
        read.at = read.at.checked_sub(RELOAD_PERIOD).unwrap_or(read.at);
    }
}
