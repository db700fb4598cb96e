//! Generic controller code, apart from the kinds: watches, the work queue and its controller, rate limits, API calls, events.

pub mod api;
pub mod controller;
pub mod events;
pub mod rate_limiter;
pub mod unreadable;
pub mod watch;
pub mod work_queue;
