//! bitbucket (to come).
