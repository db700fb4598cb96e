//! The way of the rows to whoever asked for them.

use super::program::Folder;
use super::query::{query, tpch};

#[test]
fn a_row_may_be_larger_than_any_message() {
    let folder = Folder::new();
    let sql = "select repeat(r_name, 14000000) as s from region where r_name = 'AFRICA' or r_name = 'x'";
    let yaml = query(sql, &[&tpch("region", 1.0)], &[]);
    for extra in [&[][..], &["--processes"]] {
        let arguments = [
            &["--local-workers", "1", "--memory", "1GiB", "--output", "csv"],
            extra,
        ]
        .concat();
        let ended = folder.run(&yaml, &arguments);
        assert_eq!(ended.code, Some(0), "{}", ended.stderr);
        let row = ended.stdout.strip_prefix("s\n").expect("a header");
        assert!(
            row.len() == 84_000_001 && row.ends_with("AFRICA\n"),
            "{} bytes",
            row.len()
        );
    }
}
