//! The keys that sign the operator's tokens, read from a file that may change while the operator runs.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use sluice_proto::auth::{AuthError, Claims, Token, TokenSigner};

/// How often the file is read again.
const RELOAD_PERIOD: Duration = Duration::from_secs(10);
/// How long a new key is only published while an older one signs. Pools' ConfigMaps are written within a minute, and the kubelet
/// brings them to the pods within two.
const PUBLISHED_FOR: Duration = Duration::from_secs(300);

/// The keys of a file, the newest last.
pub struct SigningKeys {
    path: PathBuf,
    read: Mutex<Read>,
}

struct Read {
    text: String,
    signer: TokenSigner,
    /// When these keys were first published.
    since: Instant,
    at: Instant,
}

impl SigningKeys {
    /// Reads a file of PKCS#8 PEM blocks with Ed25519 private keys.
    ///
    /// # Errors
    /// The file cannot be read or has other content.
    pub fn open(path: &Path) -> Result<Self, AuthError> {
        let (text, signer) = load(path)?;
        let now = Instant::now();
        Ok(Self {
            path: path.to_owned(),
            read: Mutex::new(Read {
                text,
                signer,
                since: now,
                at: now,
            }),
        })
    }

    /// Signs a token with the newest key that verifiers can know.
    ///
    /// # Errors
    /// As [`TokenSigner::sign`].
    pub fn sign(&self, claims: &Claims) -> Result<Token, AuthError> {
        self.sign_at(claims, Instant::now())
    }

    fn sign_at(&self, claims: &Claims, now: Instant) -> Result<Token, AuthError> {
        let read = self.current(now);
        if read.signer.has_several() && now.saturating_duration_since(read.since) < PUBLISHED_FOR {
            return read.signer.before_newest().sign(claims);
        }
        read.signer.sign(claims)
    }

    /// The public halves of all keys, as PEM.
    pub fn public_pem(&self) -> String {
        self.current(Instant::now()).signer.public_pem()
    }

    fn current(&self, now: Instant) -> MutexGuard<'_, Read> {
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        if now.saturating_duration_since(read.at) >= RELOAD_PERIOD {
            read.at = now;
            match load(&self.path) {
                Ok((text, signer)) if text != read.text => {
                    tracing::info!("the keys that sign tokens have changed");
                    (read.text, read.signer, read.since) = (text, signer, now);
                }
                Ok(_) => {}
                Err(error) => tracing::warn!(%error, "the keys that sign tokens stay as they were"),
            }
        }
        read
    }
}

fn load(path: &Path) -> Result<(String, TokenSigner), AuthError> {
    let text = std::fs::read_to_string(path).map_err(|error| AuthError::BadFile {
        file: path.display().to_string(),
        problem: error.to_string(),
    })?;
    let signer = TokenSigner::from_pem(&text)?;
    Ok((text, signer))
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use sluice_core::ids::{CoordinatorEpoch, QueryId};
    use sluice_proto::auth::{Folders, PoolId, TokenVerifier};

    use super::*;

    /// Ed25519 keys that are good for tests only: their secrets are 32 ones, and 32 twos.
    const KEYS: [&str; 2] = [
        "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEIAEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEB\n-----END PRIVATE KEY-----\n",
        "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEIAICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgIC\n-----END PRIVATE KEY-----\n",
    ];

    #[test]
    fn a_new_key_is_published_at_once_and_signs_when_it_can_be_known() {
        let file = std::env::temp_dir().join(format!("sluice-signing-{}.pem", std::process::id()));
        std::fs::write(&file, KEYS[0]).unwrap();
        let keys = SigningKeys::open(&file).unwrap();
        let claims = Claims::query(
            QueryId::new("q").unwrap(),
            CoordinatorEpoch(1),
            PoolId::default(),
            Folders::default(),
        );
        let begun = Instant::now();
        let signed_by = |after: Duration| {
            let token = keys.sign_at(&claims, begun + after).unwrap();
            KEYS.iter().position(|key| {
                let signer = TokenSigner::from_pem(key).unwrap();
                let verifier = TokenVerifier::from_pem(&signer.public_pem()).unwrap();
                verifier.verify(&token, SystemTime::now()).is_ok()
            })
        };
        assert_eq!(signed_by(Duration::ZERO), Some(0), "the only key signs at once");
        std::fs::write(&file, KEYS.concat()).unwrap();
        assert_eq!(signed_by(RELOAD_PERIOD), Some(0));
        let both = TokenSigner::from_pem(&KEYS.concat()).unwrap().public_pem();
        assert_eq!(keys.read.lock().unwrap().signer.public_pem(), both);
        assert_eq!(signed_by(RELOAD_PERIOD + PUBLISHED_FOR), Some(1));
        std::fs::write(&file, "half a file").unwrap();
        assert_eq!(signed_by(RELOAD_PERIOD * 2 + PUBLISHED_FOR), Some(1));
        std::fs::remove_file(&file).unwrap();
    }
}
