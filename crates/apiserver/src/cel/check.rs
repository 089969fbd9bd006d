//! The checker: names, fields, operators and functions of an expression, before it runs.
//!
//! It knows less than the real API server's compiler (a type that it cannot tell is checked when
//! the expression runs), but what it refuses, that compiler refuses too. On its way it replaces
//! what the evaluator does not do right (optional selection) by what it does.

use super::types::Type;
use kube_cel::cel::{
    ExecutionError, Value,
    common::ast::{
        CallExpr, ComprehensionExpr, EntryExpr, Expr, IdedExpr, LiteralValue, operators as op,
    },
};
use std::sync::Arc;

type Checked = Result<Type, String>;

/// Checks an expression over variables and says what it yields.
pub fn resolve(expression: &mut IdedExpr, variables: &[(&str, Type)]) -> Checked {
    let variables = variables
        .iter()
        .map(|(name, of)| (name.to_string(), of.clone()));
    let mut checker = Checker {
        scope: variables.collect(),
    };
    checker.expression(expression)
}

struct Checker {
    /// Variables, the innermost last.
    scope: Vec<(String, Type)>,
}

impl Checker {
    fn variable(&self, name: &str) -> Option<&Type> {
        let found = self.scope.iter().rev().find(|(n, _)| n == name);
        found.map(|(_, of)| of)
    }

    fn expression(&mut self, expression: &mut IdedExpr) -> Checked {
        match &mut expression.expr {
            Expr::Literal(literal) => Ok(literal_type(literal)),
            Expr::Ident(name) => match self.variable(name) {
                Some(of) => Ok(of.clone()),
                None => Err(undeclared(name)),
            },
            Expr::List(list) => {
                let mut item = Type::Dyn;
                for element in &mut list.elements {
                    let of = self.expression(element)?;
                    item = if item.fits(&of) {
                        item.join(of)
                    } else {
                        Type::Dyn
                    };
                }
                Ok(Type::list(item))
            }
            Expr::Map(map) => {
                for entry in &mut map.entries {
                    let EntryExpr::MapEntry(entry) = &mut entry.expr else {
                        return Err("messages cannot be made here".into());
                    };
                    self.expression(&mut entry.key)?;
                    self.expression(&mut entry.value)?;
                }
                Ok(Type::map(Type::Dyn))
            }
            Expr::Select(_) => self.select(expression),
            Expr::Call(_) => self.call(expression),
            Expr::Comprehension(comprehension) => self.comprehension(comprehension),
            Expr::Struct(message) => Err(undeclared(&message.type_name)),
            Expr::Unspecified => Err("an expression is missing".into()),
        }
    }

    fn select(&mut self, expression: &mut IdedExpr) -> Checked {
        let Expr::Select(select) = &mut expression.expr else {
            return Ok(Type::Dyn);
        };
        let operand = self.expression(&mut select.operand)?;
        let found = field(&operand, &select.field)?;
        if select.test {
            return match operand {
                Type::Optional(_) => Err("has() of an optional value: use hasValue()".into()),
                _ => Ok(Type::Bool),
            };
        }
        if let Type::Optional(_) = operand {
            let (operand, name) = (
                std::mem::take(&mut *select.operand),
                std::mem::take(&mut select.field),
            );
            expression.expr = optional_index(operand, &name);
        }
        Ok(found)
    }

    fn comprehension(&mut self, c: &mut ComprehensionExpr) -> Checked {
        let range = self.expression(&mut c.iter_range)?;
        let item = match &range {
            Type::List(item) => item.as_ref().clone(),
            Type::Map(_) => Type::String,
            Type::Dyn => Type::Dyn,
            other => {
                return Err(format!(
                    "expression of type '{other}' cannot be range of a comprehension (must be list, map, or dynamic)"
                ));
            }
        };
        let start = self.expression(&mut c.accu_init)?;
        let depth = self.scope.len();
        self.scope.push((c.iter_var.clone(), item));
        self.scope.push((c.accu_var.clone(), start));
        self.expression(&mut c.loop_cond)?;
        let step = self.expression(&mut c.loop_step)?;
        // A list grows by its step: only that knows the items.
        if let Some((_, accumulated)) = self.scope.last_mut() {
            *accumulated = step;
        }
        let result = self.expression(&mut c.result);
        self.scope.truncate(depth);
        result
    }

    fn call(&mut self, expression: &mut IdedExpr) -> Checked {
        let Expr::Call(call) = &mut expression.expr else {
            return Ok(Type::Dyn);
        };
        if call.target.is_none() && is_operator(&call.func_name) {
            let mut types = Vec::with_capacity(call.args.len());
            for argument in &mut call.args {
                types.push(self.expression(argument)?);
            }
            if call.func_name == op::OPT_SELECT {
                let name = literal_text(call.args.get(1)).unwrap_or_default();
                let operand = call.args.swap_remove(0);
                expression.expr = optional_index(operand, &name);
                let found = field(&types[0], &name)?;
                return Ok(lifted(found));
            }
            if matches!(call.func_name.as_str(), op::INDEX | op::OPT_INDEX) {
                return index(call, &types);
            }
            return operator(&call.func_name, &types);
        }
        as_method(call);
        let (name, target) = self.function(call)?;
        let mut types = Vec::with_capacity(call.args.len());
        for argument in &mut call.args {
            types.push(self.expression(argument)?);
        }
        function(&name, target.as_ref(), &types)
    }

    /// The full name of the function that is called, and the type of what it is called on.
    fn function(&mut self, call: &mut CallExpr) -> Result<(String, Option<Type>), String> {
        let name = call.func_name.clone();
        let Some(target) = &mut call.target else {
            return match exists(&name) {
                true => Ok((name, None)),
                false => Err(unknown_function(&name)),
            };
        };
        if let Expr::Ident(prefix) = &target.expr
            && self.variable(prefix).is_none()
        {
            let qualified = format!("{prefix}.{name}");
            return match exists(&qualified) {
                true => Ok((qualified, None)),
                false => Err(unknown_function(&qualified)),
            };
        }
        let of = self.expression(target)?;
        match exists(&name) {
            true => Ok((name, Some(of))),
            false => Err(unknown_function(&name)),
        }
    }
}

/// Functions of one argument as methods of it: the evaluator hides why an argument failed.
fn as_method(call: &mut CallExpr) {
    const METHODS: [&str; 5] = ["size", "string", "int", "uint", "double"];
    if call.target.is_none() && call.args.len() == 1 && METHODS.contains(&call.func_name.as_str()) {
        call.target = call.args.pop().map(Box::new);
    }
}

fn undeclared(name: &str) -> String {
    format!("undeclared reference to '{name}' (in container '')")
}

fn unknown_function(name: &str) -> String {
    format!(
        "{}: this API server has no function of this name",
        undeclared(name)
    )
}

fn no_overload(name: &str, types: &[Type]) -> String {
    let types: Vec<String> = types.iter().map(Type::to_string).collect();
    format!(
        "found no matching overload for '{name}' applied to '({})'",
        types.join(", ")
    )
}

fn literal_type(literal: &LiteralValue) -> Type {
    match literal {
        LiteralValue::Boolean(_) => Type::Bool,
        LiteralValue::Bytes(_) => Type::Bytes,
        LiteralValue::Double(_) => Type::Double,
        LiteralValue::Int(_) => Type::Int,
        LiteralValue::Null => Type::Null,
        LiteralValue::String(_) => Type::String,
        LiteralValue::UInt(_) => Type::Uint,
    }
}

fn literal_text(expression: Option<&IdedExpr>) -> Option<String> {
    match &expression?.expr {
        Expr::Literal(LiteralValue::String(text)) => Some(text.inner().to_string()),
        _ => None,
    }
}

/// `operand[?"name"]`.
fn optional_index(operand: IdedExpr, name: &str) -> Expr {
    let name = IdedExpr {
        id: operand.id,
        expr: Expr::Literal(LiteralValue::String(name.into())),
    };
    Expr::Call(CallExpr {
        func_name: op::OPT_INDEX.to_string(),
        target: None,
        args: vec![operand, name],
    })
}

/// As an optional, unless it is one.
fn lifted(of: Type) -> Type {
    match of {
        Type::Optional(_) => of,
        of => Type::optional(of),
    }
}

/// A field of a value.
fn field(of: &Type, name: &str) -> Checked {
    match of {
        Type::Object(fields) => match fields.get(name) {
            Some(found) => Ok(found.clone()),
            None => Err(format!("undefined field '{name}'")),
        },
        Type::Map(value) => Ok(value.as_ref().clone()),
        Type::Optional(inner) => field(inner, name).map(lifted),
        Type::Dyn => Ok(Type::Dyn),
        other => Err(format!(
            "type '{other}' does not support field selection of '{name}'"
        )),
    }
}

fn index(call: &CallExpr, types: &[Type]) -> Checked {
    let optional = call.func_name == op::OPT_INDEX;
    let refuse = || Err(no_overload(&call.func_name, types));
    let (container, is_optional) = match &types[0] {
        Type::Optional(inner) => (inner.as_ref(), true),
        other => (other, optional),
    };
    let found = match container {
        Type::List(item) if types[1].numeric() => item.as_ref().clone(),
        Type::Map(value) if types[1].fits(&Type::String) => value.as_ref().clone(),
        Type::Dyn => Type::Dyn,
        Type::Object(_) if optional => match literal_text(call.args.get(1)) {
            Some(name) => field(container, &name)?,
            None => return refuse(),
        },
        _ => return refuse(),
    };
    Ok(if is_optional { lifted(found) } else { found })
}

fn is_operator(name: &str) -> bool {
    name.starts_with(['_', '@', '!', '-'])
}

fn operator(name: &str, types: &[Type]) -> Checked {
    let refuse = || Err(no_overload(name, types));
    let all = |wanted: &Type| types.iter().all(|t| t.fits(wanted));
    match (name, types) {
        (op::LOGICAL_AND | op::LOGICAL_OR, [_, _]) | (op::LOGICAL_NOT, [_]) => {
            match all(&Type::Bool) {
                true => Ok(Type::Bool),
                false => refuse(),
            }
        }
        (op::NOT_STRICTLY_FALSE, [_]) => Ok(Type::Bool),
        (op::CONDITIONAL, [condition, yes, no]) => {
            match condition.fits(&Type::Bool) && yes.fits(no) {
                true => Ok(yes.clone().join(no.clone())),
                false => refuse(),
            }
        }
        (op::EQUALS | op::NOT_EQUALS, [a, b]) => match a.fits(b) {
            true => Ok(Type::Bool),
            false => refuse(),
        },
        (op::LESS | op::LESS_EQUALS | op::GREATER | op::GREATER_EQUALS, [a, b]) => {
            let ordered = |t: &Type| {
                !matches!(
                    t,
                    Type::List(_) | Type::Map(_) | Type::Object(_) | Type::Null
                )
            };
            match ordered(a) && ordered(b) && (a.fits(b) || (a.numeric() && b.numeric())) {
                true => Ok(Type::Bool),
                false => refuse(),
            }
        }
        (op::IN, [item, container]) => {
            let fits = match container {
                Type::List(of) => item.fits(of),
                Type::Map(_) => item.fits(&Type::String),
                Type::Dyn => true,
                _ => false,
            };
            if fits { Ok(Type::Bool) } else { refuse() }
        }
        (op::ADD | op::SUBSTRACT, [a, b]) => arithmetic(name, a, b).map_or_else(refuse, Ok),
        (op::MULTIPLY | op::DIVIDE | op::MODULO, [a, b]) => match a.numeric() && a.fits(b) {
            true => Ok(a.clone().join(b.clone())),
            false => refuse(),
        },
        (op::NEGATE, [a]) => match a.numeric() {
            true => Ok(a.clone()),
            false => refuse(),
        },
        _ => Err(unknown_function(name)),
    }
}

fn arithmetic(name: &str, a: &Type, b: &Type) -> Option<Type> {
    use Type::{Duration, Timestamp};
    match (a, b, name == op::ADD) {
        (Timestamp, Duration, _) | (Duration, Timestamp, true) => Some(Timestamp),
        (Timestamp, Timestamp, false) => Some(Duration),
        (Timestamp, Type::Dyn, _) | (Type::Dyn, Timestamp, _) => Some(Type::Dyn),
        (Type::String | Type::Bytes | Type::List(_), _, false) => None,
        (Type::Bool | Type::Null | Type::Map(_) | Type::Object(_) | Timestamp, _, _) => None,
        (Type::List(x), Type::List(y), true) if !x.fits(y) => Some(Type::list(Type::Dyn)),
        (Type::List(x), Type::List(y), true) => {
            Some(Type::list(x.as_ref().clone().join(y.as_ref().clone())))
        }
        (a, b, _) if a.fits(b) => Some(a.clone().join(b.clone())),
        _ => None,
    }
}

/// What a function yields, and whether it can be called on such a value.
fn function(name: &str, target: Option<&Type>, arguments: &[Type]) -> Checked {
    // A function of one argument may be written as a method.
    let on = target.or(arguments.first()).unwrap_or(&Type::Dyn);
    let refuse = || {
        let types: Vec<Type> = target.into_iter().chain(arguments).cloned().collect();
        Err(no_overload(name, &types))
    };
    let of_text = |result: Type| match on.fits(&Type::String) {
        true => Ok(result),
        false => refuse(),
    };
    match name {
        "startsWith" | "endsWith" | "matches" => of_text(Type::Bool),
        "lowerAscii" | "upperAscii" | "trim" | "replace" | "substring" | "charAt" | "find" => {
            of_text(Type::String)
        }
        "split" | "findAll" => of_text(Type::list(Type::String)),
        "duration" if matches!(on, Type::Dyn | Type::String | Type::Duration) => Ok(Type::Duration),
        "timestamp" if matches!(on, Type::Dyn | Type::String | Type::Timestamp) => {
            Ok(Type::Timestamp)
        }
        "size" => match on {
            Type::String | Type::Bytes | Type::List(_) | Type::Map(_) | Type::Dyn => Ok(Type::Int),
            _ => refuse(),
        },
        "contains" | "hasValue" | "isURL" | "isIP" | "isCIDR" | "isQuantity" | "isSemver"
        | "isSorted" | "isInteger" | "isGreaterThan" | "isLessThan" | "sets.contains"
        | "sets.equivalent" | "sets.intersects" => Ok(Type::Bool),
        "int" | "indexOf" | "lastIndexOf" | "compareTo" | "getFullYear" | "getMonth"
        | "getDayOfYear" | "getDayOfMonth" | "getDate" | "getDayOfWeek" | "getHours"
        | "getMinutes" | "getSeconds" | "getMilliseconds" => Ok(Type::Int),
        "string" | "join" | "format" | "getScheme" | "getHost" | "getHostname" | "getPort"
        | "getEscapedPath" | "base64.encode" => Ok(Type::String),
        "double" => Ok(Type::Double),
        "uint" => Ok(Type::Uint),
        "bytes" | "base64.decode" => Ok(Type::Bytes),
        "optional.of" | "optional.ofNonZeroValue" => Ok(Type::optional(on.clone())),
        "optional.none" => Ok(Type::optional(Type::Dyn)),
        "value" | "orValue" => match on {
            Type::Optional(inner) => Ok(inner.as_ref().clone()),
            Type::Dyn => Ok(Type::Dyn),
            _ => refuse(),
        },
        "or" => Ok(on.clone()),
        "min" | "max" | "sum" => match on {
            Type::List(item) => Ok(item.as_ref().clone()),
            _ => Ok(Type::Dyn),
        },
        "reverse" => Ok(on.clone()),
        _ => Ok(Type::Dyn),
    }
}

/// Whether the evaluator has a function of this name. The call names a target that does not
/// exist, so that no function ever runs: the evaluator misses one or the other.
fn exists(name: &str) -> bool {
    const NOWHERE: &str = "@nowhere";
    let call = IdedExpr {
        id: 0,
        expr: Expr::Call(CallExpr {
            func_name: name.to_string(),
            target: Some(Box::new(IdedExpr {
                id: 0,
                expr: Expr::Ident(NOWHERE.to_string()),
            })),
            args: Vec::new(),
        }),
    };
    super::with_functions(|functions| {
        matches!(Value::resolve(&call, functions),
            Err(ExecutionError::UndeclaredReference(missing)) if Arc::as_ref(&missing) == NOWHERE)
    })
}
