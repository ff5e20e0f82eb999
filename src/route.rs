//! route (to come).
