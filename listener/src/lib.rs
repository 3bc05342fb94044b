//! Linux's listen() and passive open as a library.
