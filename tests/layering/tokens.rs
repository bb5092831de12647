//! A lexer for the part of Rust that is needed to read imports and string literals.

/// A token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Token {
    /// An identifier, keyword or number.
    Word(String),
    /// The contents of a string literal, as written.
    Text(String),
    /// `::` and `=>`, or one character of punctuation.
    Mark(&'static str),
    /// Any other character.
    Other(char),
}

impl Token {
    pub(super) fn is(&self, text: &str) -> bool {
        match self {
            Self::Word(word) => word == text,
            Self::Mark(mark) => *mark == text,
            Self::Text(_) | Self::Other(_) => false,
        }
    }

    pub(super) fn word(&self) -> Option<&str> {
        match self {
            Self::Word(word) => Some(word),
            Self::Text(_) | Self::Mark(_) | Self::Other(_) => None,
        }
    }
}

const MARKS: [&str; 14] = ["::", "=>", "{", "}", "(", ")", "[", "]", ",", ";", "*", "#", "|", "="];

/// The tokens of `code`, without comments and without items that are compiled only for tests.
pub(super) fn tokens(code: &str) -> Vec<Token> {
    without_tests(&lex(code))
}

fn lex(code: &str) -> Vec<Token> {
    let mut found = Vec::new();
    let mut rest = code;
    while let Some(first) = rest.chars().next() {
        let length = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            rest.find("*/").map_or(rest.len(), |at| at + 2)
        } else if let Some((text, length)) = string(rest) {
            found.push(Token::Text(text.to_owned()));
            length
        } else if first == '\'' {
            quote(rest)
        } else if first.is_alphanumeric() || first == '_' {
            let length = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
            found.push(Token::Word(rest[..length].to_owned()));
            length
        } else if let Some(mark) = MARKS.into_iter().find(|mark| rest.starts_with(mark)) {
            found.push(Token::Mark(mark));
            mark.len()
        } else {
            if !first.is_whitespace() {
                found.push(Token::Other(first));
            }
            first.len_utf8()
        };
        rest = &rest[length..];
    }
    found
}

/// The contents of the string literal at the start of `code`, and the length of the literal.
fn string(code: &str) -> Option<(&str, usize)> {
    let body = code.trim_start_matches(['b', 'c', 'r']);
    let prefix = &code[..code.len() - body.len()];
    if prefix.contains('r') {
        let open = body.trim_start_matches('#').strip_prefix('"')?;
        let hashes = body.len() - open.len() - 1;
        let close = format!("\"{}", "#".repeat(hashes));
        let end = open.find(&close)?;
        return Some((&open[..end], code.len() - open.len() + end + close.len()));
    }
    let open = body.strip_prefix('"')?;
    let mut escaped = false;
    let end = open.find(|c| {
        let ends = c == '"' && !escaped;
        escaped = c == '\\' && !escaped;
        ends
    })?;
    Some((&open[..end], code.len() - open.len() + end + 1))
}

/// Length of the character literal at the start of `code`, or 1 if the quote begins a lifetime.
fn quote(code: &str) -> usize {
    let mut chars = code.char_indices().skip(1);
    match (chars.next(), chars.next()) {
        (Some((_, '\\')), Some((at, _))) => {
            // The escaped character may itself be a quote.
            let after = at + 1;
            code[after..].find('\'').map_or(1, |end| after + end + 1)
        }
        (Some(_), Some((at, '\''))) => at + 1,
        _ => 1,
    }
}

/// Removes each item under `#[cfg(test)]`.
fn without_tests(tokens: &[Token]) -> Vec<Token> {
    let attribute = ["#", "[", "cfg", "(", "test", ")", "]"];
    let mut kept = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        let marked = tokens[at..].iter().zip(attribute).filter(|(token, text)| token.is(text)).count();
        if marked == attribute.len() {
            at = end_of_item(tokens, at + attribute.len());
        } else {
            kept.push(tokens[at].clone());
            at += 1;
        }
    }
    kept
}

/// The index after the item that begins at `at`, which ends with `;` or a closing brace.
fn end_of_item(tokens: &[Token], mut at: usize) -> usize {
    let mut depth = 0;
    while let Some(token) = tokens.get(at) {
        at += 1;
        match token {
            Token::Mark("{" | "(" | "[") => depth += 1,
            Token::Mark(")" | "]") => depth -= 1,
            Token::Mark("}") => {
                depth -= 1;
                if depth == 0 {
                    break;
                }
            }
            Token::Mark(";") if depth == 0 => break,
            Token::Word(_) | Token::Text(_) | Token::Mark(_) | Token::Other(_) => {}
        }
    }
    at
}
