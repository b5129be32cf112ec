//! The one integration binary: the program as a process, and rooms joined over real sockets.

mod support;
