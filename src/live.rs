//! live (to come).
