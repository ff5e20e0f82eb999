//! assertion (to come).
