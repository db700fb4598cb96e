//! Methods of `ExecutionPlan` that operators share.

/// Of an operator without expressions.
macro_rules! no_expressions {
    () => {
        fn apply_expressions(
            &self,
            _: &mut dyn FnMut(
                &std::sync::Arc<dyn datafusion::physical_expr::PhysicalExpr>,
            )
                -> datafusion::error::Result<datafusion::common::tree_node::TreeNodeRecursion>,
        ) -> datafusion::error::Result<datafusion::common::tree_node::TreeNodeRecursion> {
            Ok(datafusion::common::tree_node::TreeNodeRecursion::Continue)
        }
    };
}

/// Of an operator without expressions, whose children nobody replaces: it stands for another.
macro_rules! fixed_node {
    () => {
        crate::planner::fixed_node::no_expressions!();

        fn with_new_children(
            self: std::sync::Arc<Self>,
            _: Vec<std::sync::Arc<dyn datafusion::physical_plan::ExecutionPlan>>,
        ) -> datafusion::error::Result<std::sync::Arc<dyn datafusion::physical_plan::ExecutionPlan>> {
            Ok(self)
        }
    };
}

/// Of an operator without expressions over one input, the field `$input`. `$rebuild` makes it anew over another.
macro_rules! one_input {
    ($input:ident, $rebuild:expr) => {
        crate::planner::fixed_node::no_expressions!();

        fn children(&self) -> Vec<&std::sync::Arc<dyn datafusion::physical_plan::ExecutionPlan>> {
            vec![&self.$input]
        }

        fn with_new_children(
            self: std::sync::Arc<Self>,
            mut children: Vec<std::sync::Arc<dyn datafusion::physical_plan::ExecutionPlan>>,
        ) -> datafusion::error::Result<std::sync::Arc<dyn datafusion::physical_plan::ExecutionPlan>> {
            type Input = std::sync::Arc<dyn datafusion::physical_plan::ExecutionPlan>;
            let rebuild: fn(&Self, Input) -> datafusion::error::Result<Self> = $rebuild;
            match children.pop() {
                Some(input) => Ok(std::sync::Arc::new(rebuild(&self, input)?)),
                None => Err(datafusion::error::DataFusionError::Internal(format!(
                    "{} has one input",
                    self.name()
                ))),
            }
        }
    };
}

pub(super) use {fixed_node, no_expressions, one_input};
