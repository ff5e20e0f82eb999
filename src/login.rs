//! login (to come).
