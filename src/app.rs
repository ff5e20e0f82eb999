//! app (to come).
