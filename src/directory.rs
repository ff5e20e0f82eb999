//! directory (to come).
