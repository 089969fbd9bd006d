//! CEL expressions: checked when they are compiled, evaluated on values made from JSON.
//!
//! The language is that of the crates `cel` and `kube-cel`. What stands here is what they leave
//! to their user: names and types are checked before anything runs, as the compiler of the real
//! API server does, and an evaluation ends in a value or a text, whatever the expression does.
//! A function that the crates lack is refused when the expression is compiled.

mod check;
mod types;
mod value;

pub use kube_cel::cel::Value;
pub use types::{Type, escape};
pub use value::{from_json, optional};

use kube_cel::{
    KubeCelExt,
    cel::{
        Context, ExecutionError,
        parser::{Expression, Parser},
    },
};
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Calls `with` with all functions. A context is costly to make and cannot be shared between
/// threads.
fn with_functions<T>(with: impl FnOnce(&Context<'static>) -> T) -> T {
    thread_local! {
        static FUNCTIONS: Context<'static> = Context::default().with_all();
    }
    FUNCTIONS.with(with)
}

/// A compiled expression.
#[derive(Debug)]
pub struct Program {
    expression: Expression,
    result: Type,
    variables: Vec<String>,
}

impl Program {
    /// Compiles an expression over the given variables. The error is the compiler's text.
    pub fn compile(text: &str, variables: &[(&str, Type)]) -> Result<Program, String> {
        let parse = || Parser::new().enable_optional_syntax(true).parse(text);
        let mut expression = match catch_unwind(AssertUnwindSafe(parse)) {
            Ok(Ok(expression)) => expression,
            Ok(Err(errors)) => return Err(errors.to_string()),
            Err(_) => return Err("ERROR: the parser cannot read this expression".into()),
        };
        let result = check::resolve(&mut expression, variables)
            .map_err(|why| format!("ERROR: <input>: {why}"))?;
        let names = expression.references();
        let used = |name: &&(&str, Type)| names.has_variable(name.0);
        let used = variables.iter().filter(used);
        let variables = used.map(|(name, _)| name.to_string()).collect();
        Ok(Program {
            expression,
            result,
            variables,
        })
    }

    /// What the expression yields, as far as it is known.
    pub fn result(&self) -> &Type {
        &self.result
    }

    /// Whether a variable occurs in it.
    pub fn uses(&self, variable: &str) -> bool {
        self.variables.iter().any(|v| v == variable)
    }

    /// Evaluates it. The error says what went wrong in the words of the real evaluator.
    pub fn evaluate(&self, variables: &[(&str, &Value)]) -> Result<Value, String> {
        with_functions(|functions| {
            let mut scope = functions.new_inner_scope();
            for (name, value) in variables.iter().filter(|(name, _)| self.uses(name)) {
                scope.add_variable_from_value(*name, (*value).clone());
            }
            // Some functions of the crates index their arguments without looking.
            let run = || Value::resolve(&self.expression, &scope);
            match catch_unwind(AssertUnwindSafe(run)) {
                Ok(result) => result.map_err(|error| describe(&error)),
                Err(_) => Err("the evaluator gave up".into()),
            }
        })
    }

    /// Evaluates a condition.
    pub fn holds(&self, variables: &[(&str, &Value)]) -> Result<bool, String> {
        match self.evaluate(variables)? {
            Value::Bool(answer) => Ok(answer),
            other => Err(format!("expected a bool, got {}", other.type_of())),
        }
    }
}

fn describe(error: &ExecutionError) -> String {
    match error {
        ExecutionError::NoSuchKey(key) => format!("no such key: {key}"),
        ExecutionError::IndexOutOfBounds(Value::Int(at)) => format!("index out of bounds: {at}"),
        ExecutionError::DivisionByZero(_) => "division by zero".into(),
        ExecutionError::RemainderByZero(_) => "modulus by zero".into(),
        ExecutionError::NoSuchOverload
        | ExecutionError::UnsupportedBinaryOperator(..)
        | ExecutionError::ValuesNotComparable(..) => "no such overload".into(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests;
