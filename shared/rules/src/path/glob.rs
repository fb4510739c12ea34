//! `*` and `?` patterns.

/// A pattern. `*` stands for any text, `?` for any one character, and `\` takes the next character literally.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Glob(Vec<Token>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Token {
    Any,
    One,
    Char(char),
}

impl Glob {
    /// Compiles `pattern`.
    pub(super) fn new(pattern: &str) -> Self {
        let mut tokens = Vec::with_capacity(pattern.len());
        let mut chars = pattern.chars();
        while let Some(c) = chars.next() {
            tokens.push(match c {
                '*' => Token::Any,
                '?' => Token::One,
                '\\' => Token::Char(chars.next().unwrap_or('\\')),
                plain => Token::Char(plain),
            });
        }
        Self::from_tokens(tokens)
    }

    /// Makes a pattern of tokens. Several `*` in a row count as one.
    pub(super) fn from_tokens(mut tokens: Vec<Token>) -> Self {
        tokens.dedup_by(|a, b| *a == Token::Any && *b == Token::Any);
        Self(tokens)
    }

    /// Whether the whole `text` fits. The search goes back to the last `*` only, so the work is bounded by the product
    /// of both lengths.
    pub(super) fn fits(&self, text: &str) -> bool {
        let mut rest = text.chars();
        let mut at = 0;
        // After the last `*`: its position in the pattern, and the text that it does not cover yet.
        let mut star: Option<(usize, std::str::Chars<'_>)> = None;
        loop {
            let here = rest.clone();
            match (self.0.get(at), rest.next()) {
                (Some(Token::Any), _) => {
                    at += 1;
                    star = Some((at, here.clone()));
                    rest = here;
                    continue;
                }
                (Some(Token::One), Some(_)) => {
                    at += 1;
                    continue;
                }
                (Some(Token::Char(wanted)), Some(c)) if *wanted == c => {
                    at += 1;
                    continue;
                }
                (None, None) => return true,
                _ => {}
            }
            let Some((after, given)) = star.as_mut() else { return false };
            if given.next().is_none() {
                return false;
            }
            at = *after;
            rest = given.clone();
        }
    }
}
