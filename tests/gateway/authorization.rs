//! Who may pass, and what the others are told.
