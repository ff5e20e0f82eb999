//! The operators' address.
