//! proxy (to come).
