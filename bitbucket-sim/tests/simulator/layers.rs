//! The map in `lib.rs` is true: a module uses only those that the map lists above it.

use std::fs;
use std::path::{Path, PathBuf};

use crate::support::Outcome;

fn sources(folder: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            found.extend(sources(&path)?);
        } else {
            found.push(path);
        }
    }
    Ok(found)
}

#[test]
fn imports_go_up_the_list() -> Outcome {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let map = fs::read_to_string(root.join("lib.rs"))?;
    let order: Vec<&str> =
        map.lines().filter_map(|line| line.strip_prefix("mod ")?.strip_suffix(';')).collect();
    let place = |name: &str| order.iter().position(|known| *known == name);
    assert!(order.len() > 10);

    for path in sources(&root)? {
        let relative = path.strip_prefix(&root)?.with_extension("");
        let own = relative.iter().next().and_then(|name| name.to_str()).unwrap_or_default();
        let Some(own) = place(own) else { continue };
        for used in fs::read_to_string(&path)?.split("crate::").skip(1) {
            let name: String = used.chars().take_while(|c| c.is_ascii_lowercase()).collect();
            let used = place(&name);
            assert!(used.is_none_or(|used| used <= own), "{} uses {name}", path.display());
        }
    }
    Ok(())
}
