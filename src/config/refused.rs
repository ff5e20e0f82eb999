//! What is known and refused: keys and words of the documented configuration that this version cannot act
//! on. A setting that silently does nothing is worse than an error.
//!
//! Owns: [`REFUSED`], the table, and [`find`].
//! Must not know: the schema.

/// A key, or one word as the value of a key.
pub(super) struct Refused {
    /// Its path without indices; one that begins with a dot matches at the end of a path.
    pub(super) path: &'static str,
    /// The word, if others are fine.
    pub(super) word: Option<&'static str>,
    /// Why, and what to do instead: a sentence, or a predicate of the key or word (`is …`, `would …`).
    pub(super) message: &'static str,
}

/// All of them.
pub(super) const REFUSED: &[Refused] = &[
    Refused {
        path: "upstream_timeouts.read",
        word: None,
        message: "is two now: `header` for the time before an answer, `idle` for silence within it",
    },
    Refused {
        path: "routes[].upstream_timeouts.read",
        word: None,
        message: "is two now: `header` for the time before an answer, `idle` for silence within it",
    },
    Refused {
        path: "routes[].upstream_tls.verify",
        word: None,
        message: "is no key: without it whoever stands between gateway and app could read and change everything; name the app's own authority as `ca`, and `server_name` where the certificate is for another name",
    },
    Refused {
        path: "session.same_site",
        word: Some("strict"),
        message: "would keep the cookie back when the browser returns from Bitbucket, so that sign-in would never end; use `lax`",
    },
];

/// Why the key at `path`, or `word` as its value, is refused.
pub(super) fn find(path: &str, word: Option<&str>) -> Option<&'static str> {
    let bare = without_indices(path);
    let matches = |refused: &&Refused| {
        let at_end = refused.path.starts_with('.') && bare.ends_with(refused.path);
        refused.word == word && (at_end || bare == refused.path)
    };
    REFUSED.iter().find(matches).map(|refused| refused.message)
}

/// `routes[2].upstreams` → `routes[].upstreams`.
fn without_indices(path: &str) -> String {
    let mut within = false;
    path.chars()
        .filter(|c| {
            within = within && *c != ']';
            let keep = !within;
            within = within || *c == '[';
            keep
        })
        .collect()
}
