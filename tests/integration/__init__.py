"""Tests of the whole: real servers, real sockets, a real browser."""
