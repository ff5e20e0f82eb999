//! Where requests begin and end.
