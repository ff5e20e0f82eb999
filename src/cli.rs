//! cli (to come).
