//! The push API.
