//! telemetry (to come).
