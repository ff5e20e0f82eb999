//! config (to come).
