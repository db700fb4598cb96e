//! The table of good and bad objects, `crds/cases/*.yaml`: the tests of this crate run it through `parse_documents`
//! and `validate_*`, a test against a real API server creates the same objects there.
//!
//! A case is one YAML document with a header of three comments:
//!
//! ```yaml
//! # case: what it shows
//! # local: good, or the fields that are reported, separated by commas
//! # server: good or refused (with strict field validation)
//! ```

/// One object and what becomes of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Case {
    /// What it shows.
    pub title: String,
    /// Fields that parsing or validation report, in any order; none for a good object.
    pub local: Vec<String>,
    /// Whether the API server takes the object, with strict field validation.
    pub server_accepts: bool,
    /// The object.
    pub yaml: String,
}

const FILES: [&str; 2] = [
    include_str!("../cases/queries.yaml"),
    include_str!("../cases/pools.yaml"),
];

/// All cases.
///
/// # Errors
///
/// If a header is malformed; the message names the case.
pub fn cases() -> Result<Vec<Case>, String> {
    FILES
        .iter()
        .flat_map(|file| file.split("\n---\n"))
        .map(case)
        .collect()
}

fn case(text: &str) -> Result<Case, String> {
    let header = |key: &str| {
        let prefix = format!("# {key}: ");
        let line = text.lines().find_map(|line| line.strip_prefix(prefix.as_str()));
        line.ok_or_else(|| format!("a case has no line `{prefix}`:\n{text}"))
    };
    let local = match header("local")? {
        "good" => Vec::new(),
        fields => fields.split(',').map(|field| field.trim().to_owned()).collect(),
    };
    let server_accepts = match header("server")? {
        "good" => true,
        "refused" => false,
        other => return Err(format!("`server: {other}` is neither good nor refused")),
    };
    Ok(Case {
        title: header("case")?.to_owned(),
        local,
        server_accepts,
        yaml: text.to_owned(),
    })
}
