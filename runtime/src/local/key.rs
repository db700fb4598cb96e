//! The key of one run: other users of the machine can reach its ports, but hold no token that opens them.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use sluice_core::ids::{CoordinatorEpoch, QueryId};
use sluice_proto::auth::{Claims, Guard, Token, TokenSigner, TokenVerifier};

/// The key dies with the run, whatever its token says.
const LIFETIME: Duration = Duration::from_secs(365 * 24 * 3600);

/// A fresh key, and the token of the run's query. The signing half is forgotten once the token is made.
#[derive(Debug, Clone)]
pub struct RunKey {
    /// Opens the run's coordinator, and sessions and fetches at its workers.
    pub token: Token,
    /// Lets in who has that token.
    pub guard: Guard,
    public_pem: String,
}

/// Where the processes of a run find its key.
#[derive(Debug, Clone)]
pub struct KeyFiles {
    /// The public half, for `--verify-key-file`.
    pub public: PathBuf,
    /// The token, for `--token-file`.
    pub token: PathBuf,
}

impl RunKey {
    /// A key for one query and one term of its coordinator.
    ///
    /// # Errors
    /// The machine gives no random bytes.
    pub fn new(query: &QueryId, epoch: CoordinatorEpoch) -> anyhow::Result<Self> {
        let signer = TokenSigner::generate()?;
        let public_pem = signer.public_pem();
        Ok(Self {
            token: signer.sign(&Claims::query(query.clone(), epoch, LIFETIME))?,
            guard: Guard::new(TokenVerifier::from_pem(&public_pem)?),
            public_pem,
        })
    }

    /// Writes it for processes of the run, into a folder that only this user can enter.
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
