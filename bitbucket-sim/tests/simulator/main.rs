//! The promises of the simulator, kept over real sockets. One file per kind of promise.

mod binary;
mod control;
mod faults;
mod layers;
mod life;
mod oauth;
mod pages;
mod rest;
mod support;
