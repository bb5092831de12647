//! Finds the names of families and of parameters, which may occur in few files.

use super::tokens::{Token, tokens};

/// The names of families in the code of a file. A family is named by a variant of an enum that has one variant for each
/// family.
pub(super) fn families(text: &str) -> Vec<String> {
    let tokens = tokens(text);
    let is_enum = |token: &Token| ["Config", "Network", "Family"].iter().any(|name| token.is(name));
    let found = tokens.windows(3).filter_map(|window| match window {
        [owner, Token::Mark("::"), Token::Word(variant)] if is_enum(owner) => {
            let is_variant = variant.starts_with(char::is_uppercase) && variant.contains(char::is_lowercase);
            is_variant.then(|| format!("{}::{variant}", owner.word().unwrap()))
        }
        // Matches `use Network::{Vit, Bert}` and `use Network::*`.
        [owner, Token::Mark("::"), Token::Mark("{" | "*")] if is_enum(owner) => {
            Some(format!("every {}", owner.word().unwrap()))
        }
        _ => None,
    });
    found.collect()
}

/// The values of the constants of a schema, `const NAME: &str = "value";`.
pub(super) fn parameters(schema: &str) -> Vec<String> {
    let tokens = tokens(schema);
    let value = |window: &[Token]| match window {
        [kind, Token::Mark("="), Token::Text(value)] if kind.is("str") => Some(value.clone()),
        _ => None,
    };
    tokens.windows(3).filter_map(value).collect()
}

/// The string literals in the code of a file that spell the name of a parameter.
pub(super) fn spelled(text: &str, parameters: &[String]) -> Vec<String> {
    let literal = |token| match token {
        Token::Text(text) => Some(text),
        Token::Word(_) | Token::Mark(_) | Token::Other(_) => None,
    };
    tokens(text).into_iter().filter_map(literal).filter(|text| spells(text, parameters)).collect()
}

/// Parts of names that are ordinary words and say nothing alone.
const WORDS: [&str; 3] = ["encoder", "output", "weight"];

/// Whether the literal `text` is the name of a parameter or a part of one, or contains a name that cannot be prose.
///
/// `norm`, `head` and `blocks` are also ordinary words. Inside a longer text they count only next to a dot.
fn spells(text: &str, parameters: &[String]) -> bool {
    let parts = |name: &str| name.split('.').map(str::to_owned).collect::<Vec<_>>();
    let is_part =
        |parameter: &String| parts(parameter).iter().any(|part| part == text && !WORDS.contains(&text));
    let holds = |name: &[String], parameter: &String| {
        let parts = parts(parameter);
        let is_word = parameter.chars().all(char::is_alphabetic);
        let dotted = name.iter().filter(|part| !part.is_empty()).count() > 1;
        name.windows(parts.len()).any(|window| window == parts) && (dotted || !is_word)
    };
    let names = text.split(|c: char| !c.is_alphanumeric() && !"_.{}".contains(c)).map(parts);
    parameters.iter().any(|parameter| parameter == text || is_part(parameter))
        || names.into_iter().any(|name| parameters.iter().any(|parameter| holds(&name, parameter)))
}
