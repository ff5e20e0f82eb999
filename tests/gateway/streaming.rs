//! What does not end at once.
