//! The 22 queries of TPC-H on three worker processes, compared with plain DataFusion.

use std::path::{Path, PathBuf};

use super::program::{Folder, Worker, list};
use super::query::{plain_csv, query};
