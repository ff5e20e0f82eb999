//! What changes at Bitbucket takes effect here.
