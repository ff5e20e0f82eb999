//! admin (to come).
