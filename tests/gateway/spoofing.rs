//! What clients claim to be.
