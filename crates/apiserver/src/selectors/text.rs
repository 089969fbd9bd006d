//! Label selectors as text: `a=b,c!=d,e in (f,g),h notin (i),j,!k,l>1`, read word by word, with
//! Kubernetes' words for what is wrong.

use super::{LabelRequirement, LabelTest};
use crate::{
    status::{ApiError, Cause, Result},
    validation,
};
use serde_json::Value;

const OPERATORS: &str = "in, notin, =, ==, !=, gt, lt";

/// Reads all requirements.
pub fn parse(text: &str) -> Result<Vec<LabelRequirement>> {
    let mut words = Words { left: text };
    let mut requirements = Vec::new();
    loop {
        match words.peek() {
            "" => return Ok(requirements),
            word if word == "!" || is_name(word) => {
                let requirement = requirement(&mut words);
                let bad = |why| format!("unable to parse requirement: {why}");
                requirements.push(requirement.map_err(|why| ApiError::bad_request(bad(why)))?);
            }
            word => return Err(unexpected(word, "!, identifier, or 'end of string'")),
        }
        match words.next() {
            "" => return Ok(requirements),
            "," => match words.peek() {
                word if word == "!" || is_name(word) => {}
                word => return Err(unexpected(word, "identifier after ','")),
            },
            word => return Err(unexpected(word, "',' or 'end of string'")),
        }
    }
}

fn unexpected(word: &str, expected: &str) -> ApiError {
    ApiError::bad_request(found(word, expected))
}

fn found(word: &str, expected: &str) -> String {
    format!("found '{word}', expected: {expected}")
}

fn is_name(word: &str) -> bool {
    !word.is_empty() && !word.starts_with(is_special)
}

fn is_special(c: char) -> bool {
    "=!(),><".contains(c)
}

fn requirement(words: &mut Words<'_>) -> Result<LabelRequirement, String> {
    let first = words.next();
    let negated = first == "!";
    let key = if negated { words.next() } else { first };
    if !is_name(key) {
        return Err(found(key, "identifier"));
    }
    checked(|causes| validation::label_name(key, "<nil>", causes))?;
    let test = match words.peek() {
        _ if negated => LabelTest::DoesNotExist,
        "" | "," => LabelTest::Exists,
        _ => comparison(key, words)?,
    };
    let key = key.to_string();
    Ok(LabelRequirement { key, test })
}

fn comparison(key: &str, words: &mut Words<'_>) -> Result<LabelTest, String> {
    let operator = words.next();
    let values = match operator {
        "in" | "notin" => listed(words)?,
        "=" | "==" | "!=" | ">" | "<" => vec![exact(words)?],
        other => return Err(found(other, OPERATORS)),
    };
    let mut numbers = values.iter().map(|value| value.parse::<i64>());
    let number = numbers.next().and_then(Result::ok);
    for (index, value) in values.iter().enumerate() {
        if matches!(operator, ">" | "<") && number.is_none() {
            return Err(format!(
                "values[{index}]: Invalid value: {value:?}: for 'Gt', 'Lt' operators, the value must be an integer"
            ));
        }
        if let Some(why) = validation::label_value(value) {
            let place = format!("values[{index}][{key}]");
            let cause = Cause::invalid(place, &Value::from(value.as_str()), why);
            return Err(text(&cause));
        }
    }
    Ok(match (operator, number) {
        ("in" | "=" | "==", _) => LabelTest::In(values),
        (">", Some(number)) => LabelTest::GreaterThan(number),
        ("<", Some(number)) => LabelTest::LessThan(number),
        _ => LabelTest::NotIn(values),
    })
}

/// `(a,b)`; an item that is left out is "".
fn listed(words: &mut Words<'_>) -> Result<Vec<String>, String> {
    let open = words.next();
    if open != "(" {
        return Err(format!("found '{open}' expected: '('"));
    }
    let mut values = Vec::new();
    loop {
        let value = match words.peek() {
            word if is_name(word) => words.next(),
            ")" | "," => "",
            word => return Err(found(word, "',', ')' or identifier")),
        };
        values.push(value.to_string());
        match words.next() {
            "," => {}
            ")" => return Ok(values),
            word => return Err(found(word, "',' or ')'")),
        }
    }
}

/// One value, which may be left out.
fn exact(words: &mut Words<'_>) -> Result<String, String> {
    match words.peek() {
        "" | "," => Ok(String::new()),
        word if is_name(word) => Ok(words.next().to_string()),
        word => Err(found(word, "identifier")),
    }
}

fn checked(check: impl FnOnce(&mut Vec<Cause>)) -> Result<(), String> {
    let mut causes = Vec::new();
    check(&mut causes);
    match causes.first() {
        None => Ok(()),
        Some(cause) => Err(text(cause)),
    }
}

fn text(cause: &Cause) -> String {
    format!("{}: {}", cause.field, cause.message)
}

/// Names, and signs between them; "" at the end.
struct Words<'a> {
    left: &'a str,
}

impl<'a> Words<'a> {
    fn peek(&self) -> &'a str {
        let text = self.left.trim_start();
        let Some(first) = text.chars().next() else {
            return "";
        };
        if matches!(first, '(' | ')' | ',') {
            return &text[..1];
        }
        let special = is_special(first);
        let of_this_kind = |c: char| {
            !c.is_whitespace() && is_special(c) == special && !(special && "(),".contains(c))
        };
        let end = text.find(|c| !of_this_kind(c)).unwrap_or(text.len());
        // The longest sign that there is.
        let known = ["!=", "==", "=", "!", ">", "<"];
        match known.into_iter().find(|sign| text.starts_with(sign)) {
            Some(sign) => &text[..sign.len()],
            None => &text[..end],
        }
    }

    fn next(&mut self) -> &'a str {
        let word = self.peek();
        self.left = &self.left.trim_start()[word.len()..];
        word
    }
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn what_is_wrong_is_said_in_the_words_of_kubernetes() {
        for (text, why) in [
            (
                "app within (a)",
                "unable to parse requirement: found 'within', expected: in, notin, =, ==, !=, gt, lt",
            ),
            ("app=a=b", "found '=', expected: ',' or 'end of string'"),
            (
                "app in (a",
                "unable to parse requirement: found '', expected: ',' or ')'",
            ),
            (
                ",",
                "found ',', expected: !, identifier, or 'end of string'",
            ),
            ("a,", "found '', expected: identifier after ','"),
            (
                "n>x",
                "unable to parse requirement: values[0]: Invalid value: \"x\": for 'Gt', 'Lt' operators, the value must be an integer",
            ),
            (
                "!",
                "unable to parse requirement: found '', expected: identifier",
            ),
        ] {
            assert_eq!(parse(text).unwrap_err().message, why, "{text}");
        }
        let odd = parse("-bad=a").unwrap_err().message;
        assert!(
            odd.starts_with(
                "unable to parse requirement: <nil>: Invalid value: \"-bad\": name part must"
            ),
            "{odd}"
        );
    }

    #[test]
    fn every_form() {
        for text in [
            "",
            " ",
            "a in ()",
            "a=",
            "a= ,b",
            "in",
            "!in",
            "a in (in,notin)",
            "a==b , c!=d,e>1",
        ] {
            assert!(parse(text).is_ok(), "{text}");
        }
    }
}
