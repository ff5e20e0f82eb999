//! How long people stay signed in.
