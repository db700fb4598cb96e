//! Tests of planning: cut queries run stage by stage in process and give the rows of plain DataFusion.

mod broadcast;
mod conformance;
mod correlated;
mod data;
mod error_words;
mod facts;
mod filters;
mod groups;
mod harness;
mod join_order;
mod joins;
mod on_conditions;
mod order;
mod refusals;
mod samples;
mod semantics;
mod shapes;
mod splits;
mod sql_page;
mod stages;
mod subqueries;
mod survey;
mod text;
mod tpch;
mod values;
mod windows;
