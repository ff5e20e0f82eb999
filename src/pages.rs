//! pages (to come).
