//! What apps and clients see of each other.
