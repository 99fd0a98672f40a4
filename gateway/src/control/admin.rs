//! The admin listener: metrics, health, status, and the push API that backends call.
