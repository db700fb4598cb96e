//! The key of one run. Other users of the machine can reach its ports but have no token for them.

use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use sluice_core::ids::{CoordinatorEpoch, QueryId};
use sluice_proto::auth::{
    Audience, Authorizer, Claims, Folders, PoolId, Token, TokenSigner, TokenVerifier, TrustedKeys, Verb,
};

/// Longer than any run: the key is gone when the run ends.
const LIFETIME: Duration = Duration::from_secs(365 * 24 * 3600);

/// The tokens of the run's query, and the public key that verifies them. The private key is dropped once they are
/// signed.
#[derive(Debug, Clone)]
pub struct RunKey {
    /// For sessions with the run's workers.
    pub token: Token,
    /// For the coordinator: read status and result, cancel.
    pub client_token: Token,
    /// Workers admit the run's coordinator with it.
    pub worker_authorizer: Authorizer,
    /// The coordinator admits the run's client with it.
    pub coordinator_authorizer: Authorizer,
    public_pem: String,
}

/// The files that give a run's processes its key.
#[derive(Debug, Clone)]
pub struct KeyFiles {
    /// The public half, for `--verify-key-file`.
    pub public: PathBuf,
    /// The token of sessions, for `--token-file`.
    pub token: PathBuf,
}

impl RunKey {
    /// A key for one query and one coordinator epoch.
    ///
    /// # Errors
    /// The system has no random bytes.
    pub fn new(query: &QueryId, epoch: CoordinatorEpoch) -> anyhow::Result<Self> {
        let signer = TokenSigner::generate()?;
        let public_pem = signer.public_pem();
        let keys = TrustedKeys::from(TokenVerifier::from_pem(&public_pem)?);
        // The workers run as the user whose files they read.
        let everything = Folders {
            read: vec!["/".to_owned()],
            write: vec!["/".to_owned()],
        };
        let session = Claims {
            expires: SystemTime::now() + LIFETIME,
            ..Claims::query(query.clone(), epoch, PoolId::default(), everything)
        };
        let client = Claims {
            audience: Audience::Coordinator(query.clone()),
            verbs: [Verb::ReadStatus, Verb::ReadResult, Verb::Cancel].into(),
            folders: Folders::default(),
            ..session.clone()
        };
        Ok(Self {
            token: signer.sign(&session)?,
            client_token: signer.sign(&client)?,
            worker_authorizer: Authorizer::for_worker(keys.clone(), PoolId::default(), query.as_str()),
            coordinator_authorizer: Authorizer::for_coordinator(keys, PoolId::default(), query.clone()),
            public_pem,
        })
    }

    /// Writes it for the run's processes into a folder that only this user can enter.
    ///
    /// # Errors
    /// The files cannot be written.
    pub fn write(&self, folder: &Path) -> io::Result<KeyFiles> {
        let files = KeyFiles {
            public: folder.join("key.pem"),
            token: folder.join("token"),
        };
        std::fs::write(&files.public, &self.public_pem)?;
        std::fs::write(&files.token, self.token.as_text())?;
        Ok(files)
    }
}
