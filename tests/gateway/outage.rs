//! What happens while Bitbucket is away.
