//! What a query reads: files of the user's tables, pinned when the query is planned, and generated TPC-H rows.

pub mod tpch;
