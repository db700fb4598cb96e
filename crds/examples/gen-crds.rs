//! Writes the CRD files under `crds/yaml/` and the pages under `docs/reference/` from the Rust types.

use std::path::Path;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    write(&root.join("yaml"), sluice_crds::yaml::files()?)?;
    write(&root.join("../docs/reference"), sluice_crds::reference::pages()?)
}

fn write(folder: &Path, files: Vec<(&str, String)>) -> Result<(), Box<dyn std::error::Error>> {
    std::fs::create_dir_all(folder)?;
    for (name, text) in files {
        let path = folder.join(name);
        std::fs::write(&path, text)?;
        println!("wrote {}", path.display());
    }
    Ok(())
}
