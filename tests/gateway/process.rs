//! Starting, stopping, and what is written down.
