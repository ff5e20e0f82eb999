//! Why a request's address is not taken.
//!
//! Owns: [`Refusal`].
//! Must not know: how it is answered (a page or problem+json).

/// Why a target or a host is refused. Each `Display` is a sentence for the person who sent the request; none
/// repeats what was sent, so that it may stand on a page.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, thiserror::Error)]
pub enum Refusal {
    /// `*`, `host:port`, a foreign scheme, or nothing at all (RFC 9112 §3.2).
    #[error("The address does not begin with a slash.")]
    NotOriginForm,
    /// More than [`super::target::MAX_BYTES`].
    #[error("The address is longer than 32 KiB.")]
    TooLong,
    /// A raw `#`: some parsers cut there and some do not.
    #[error("The address contains a `#`; browsers keep that part to themselves.")]
    Fragment,
    /// `%` without two hexadecimal digits.
    #[error("The address contains a percent sign that is not followed by two hexadecimal digits.")]
    BadEscape,
    /// `\` or `%5C`: a slash to browsers and to Windows.
    #[error("The address contains a backslash.")]
    Backslash,
    /// NUL to US and DEL, raw or encoded.
    #[error("The address contains a control character.")]
    Control,
    /// Decoding yields no UTF-8, as with overlong forms of `/`.
    #[error("The address does not decode to UTF-8 text.")]
    NotUtf8,
    /// `%2F` on a route without `allow_in_path: [encoded_slash]`.
    #[error("The address contains an encoded slash (%2F), which this place does not take.")]
    EncodedSlash,
    /// `;` or `%3B` on a route without `allow_in_path: [semicolon]`.
    #[error("The path contains a semicolon, which this place does not take.")]
    Semicolon,
    /// `..;x`, `..%2F`: a dot segment to those who cut parameters or decode slashes. No route can opt in.
    #[error("The path hides a step to the folder above (`..`) behind a semicolon or an encoded slash.")]
    DisguisedDots,
    /// Decoding a second time would yield something that is refused.
    #[error("The path is encoded more than once, and what it would decode to is not taken.")]
    DoubleEncoding,
    /// What a rule of ours made of a path; clients' own paths are respelt instead.
    #[error("The path has an empty segment, a dot segment or an escape that says the same as none.")]
    Respelt,
    /// No host at all.
    #[error("The request names no host.")]
    NoHost,
    /// A host that is neither a name nor an address: userinfo, commas, spaces, odd characters, too long.
    #[error("The host is neither a name nor an address.")]
    BadHost,
    /// A port that is no number from 1 to 65535.
    #[error("The port is not a number from 1 to 65535.")]
    BadPort,
    /// The target names one host and the `Host` header another.
    #[error("The address and the Host header name different hosts.")]
    HostMismatch,
}
