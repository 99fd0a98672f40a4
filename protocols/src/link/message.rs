//! Messages in parts.
