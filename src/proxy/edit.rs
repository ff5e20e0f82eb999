//! The headers that a route takes off or puts on, applied.
//!
//! Owns: that every spelling of a name goes which an app cannot tell from it.
//! Must not know: which names may be edited; configuration decides that.

use http::{HeaderMap, HeaderName};

use crate::route::edit::Edits;
use crate::snapshot::fold;

/// Applied to a request before anything of ours is put on, so that what is ours stands last; to an answer before we
/// say who may keep a copy.
pub(super) fn edit(fields: &mut HeaderMap, edits: &Edits) {
    for name in gone(fields, edits) {
        fields.remove(&name);
    }
    for (name, value) in &edits.set {
        fields.insert(name.clone(), value.clone());
    }
}

/// Names of `headers` that the edits do away with.
fn gone(headers: &HeaderMap, edits: &Edits) -> Vec<HeaderName> {
    if edits.is_empty() {
        return Vec::new();
    }
    let edited: Vec<String> = edits.names().map(|name| fold(name.as_str())).collect();
    headers.keys().filter(|name| edited.contains(&fold(name.as_str()))).cloned().collect()
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn what_is_set_is_the_only_value_that_an_app_can_find() -> Result<(), Box<dyn std::error::Error>> {
        let edits = Edits {
            remove: Box::new([HeaderName::from_static("x-debug")]),
            set: Box::new([(HeaderName::from_static("x-api-key"), HeaderValue::from_static("ours"))]),
        };
        let mut fields = HeaderMap::new();
        for (name, value) in [
            ("X-Debug", "1"),
            ("X_Debug", "2"),
            ("X-Api-Key", "theirs"),
            ("x_api_key", "theirs, too"),
            ("X.Api.Key", "and again"),
            ("X-Api-Keys", "another name"),
        ] {
            fields.append(name.parse::<HeaderName>()?, HeaderValue::from_static(value));
        }
        edit(&mut fields, &edits);
        let left: Vec<(&str, &[u8])> =
            fields.iter().map(|(name, value)| (name.as_str(), value.as_bytes())).collect();
        assert_eq!(left, [("x-api-keys", &b"another name"[..]), ("x-api-key", b"ours")]);
        Ok(())
    }
}
