//! The HTTP front: HTTP/1.1 and HTTP/2 connections of short-lived clients, curl and gRPC.
