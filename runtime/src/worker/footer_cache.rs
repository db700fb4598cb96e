//! Parquet footers, cached across attempts.

use std::sync::Arc;

use datafusion::execution::cache::cache_manager::{
    CacheManagerConfig, CachedFileMetadataEntry, FileMetadataCache,
};
use datafusion::execution::cache::default_cache::DefaultCache;
use object_store::path::Path;
use sluice_core::plan::InputFile;

/// Footers take at most this fraction of the worker's memory, in addition to it, and at most this many bytes.
const SHARE: u64 = 32;
const MAX_BYTES: u64 = 50 << 20;

/// Footers of files that attempts of any query have read. The cache decides nothing about permission: an attempt asks
/// its own store for every file first, see [`crate::source::verify`].
pub(super) struct FooterCache {
    cache: Arc<FileMetadataCache>,
    limit: usize,
}

impl FooterCache {
    /// For a worker with this much memory.
    pub(super) fn new(memory_bytes: u64) -> Self {
        let limit = usize::try_from((memory_bytes / SHARE).min(MAX_BYTES)).unwrap_or(0);
        Self {
            cache: Arc::new(DefaultCache::<Path, CachedFileMetadataEntry>::new(limit)),
            limit,
        }
    }

    /// The caches of one attempt's runtime: these footers, and other caches empty.
    pub(super) fn caches(&self) -> CacheManagerConfig {
        CacheManagerConfig::default()
            .with_file_metadata_cache(Some(Arc::clone(&self.cache)))
            .with_metadata_cache_limit(self.limit)
    }

    /// Drops footers of replaced files. DataFusion compares size and time, which a replacement may share with the old
    /// file; their ETags differ.
    pub(super) fn invalidate_changed(&self, files: &[InputFile]) {
        for file in files {
            let Ok(path) = Path::parse(&file.path) else {
                continue;
            };
            let known = self.cache.get(&path);
            if known.is_some_and(|entry| entry.meta.e_tag != file.etag) {
                self.cache.remove(&path);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::any::Any;
    use std::collections::HashMap;

    use datafusion::execution::cache::cache_manager::FileMetadata;
    use datafusion::execution::runtime_env::RuntimeEnvBuilder;

    use super::*;
    use crate::source::object_meta;

    struct Footer;

    impl FileMetadata for Footer {
        fn as_any(&self) -> &dyn Any {
            self
        }

        fn memory_size(&self) -> usize {
            1000
        }

        fn extra_info(&self) -> datafusion::common::HashMap<String, String> {
            HashMap::new().into_iter().collect()
        }
    }

    fn file(path: &str, etag: &str) -> InputFile {
        InputFile {
            path: path.to_owned(),
            size: 10,
            modified_nanos: 5,
            etag: Some(etag.to_owned()),
        }
    }

    /// The footers as one attempt sees them.
    fn seen(footers: &FooterCache) -> Arc<FileMetadataCache> {
        let runtime = RuntimeEnvBuilder::new()
            .with_cache_manager(footers.caches())
            .build()
            .unwrap();
        runtime.cache_manager.get_file_metadata_cache()
    }

    fn read(cache: &FileMetadataCache, file: &InputFile) {
        let meta = object_meta(file).unwrap();
        cache.put(
            &meta.location.clone(),
            CachedFileMetadataEntry::new(meta, Arc::new(Footer)),
        );
    }

    #[test]
    fn a_footer_outlives_its_attempt_and_not_its_file() {
        let footers = FooterCache::new(1 << 30);
        let (one, other) = (file("data/one.parquet", "a"), file("data/other.parquet", "b"));
        read(seen(&footers).as_ref(), &one);
        read(seen(&footers).as_ref(), &other);
        let paths = [&one, &other].map(|file| object_meta(file).unwrap().location);
        footers.invalidate_changed(&[one, other.clone()]);
        assert!(paths.iter().all(|path| seen(&footers).contains_key(path)));
        // The same path, size and time.
        footers.invalidate_changed(&[file("data/one.parquet", "c"), other]);
        assert_eq!(
            paths.map(|path| seen(&footers).contains_key(&path)),
            [false, true]
        );
    }

    #[test]
    fn footers_take_a_bounded_part_of_memory() {
        let footers = FooterCache::new(32 * 2500);
        for number in 0..10 {
            read(
                seen(&footers).as_ref(),
                &file(&format!("data/{number}.parquet"), "a"),
            );
        }
        let kept = seen(&footers).len();
        assert!((1..=2).contains(&kept), "{kept} footers of 1000 bytes in 2500");
        assert_eq!(FooterCache::new(u64::MAX).limit, 50 << 20);
    }
}
