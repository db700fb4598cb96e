//! The program as its users run it: processes that are started, killed, frozen, interrupted, and sent wrong messages.

mod auth;
mod chaos;
mod cli;
mod discovery;
mod drain;
mod limit;
mod limits;
mod locality;
mod logs;
mod look;
mod losses;
mod order;
mod program;
mod query;
mod result;
mod retention;
mod safety;
mod samples;
mod sink;
mod skew;
mod status_file;
mod stop;
mod successor;
mod tpch_processes;
mod watched;
mod wire_noise;
