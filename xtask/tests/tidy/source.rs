//! Rust files as tokens with lines, so that rules see neither comments nor what strings say.

use std::fs;
use std::path::{Path, PathBuf};

use proc_macro2::{Delimiter, TokenStream, TokenTree};

/// A directory with this file holds what can be made again (cargo puts it into its output), and this one git's data.
const CACHE_MARK: &str = "CACHEDIR.TAG";
const GIT: &str = ".git";

/// One Rust file.
pub(crate) struct Source {
    /// Relative to the checkout.
    pub(crate) path: PathBuf,
    pub(crate) text: String,
    pub(crate) tokens: Vec<Token>,
}

/// One token; a group's delimiters are tokens too, a literal is one with its quotes.
#[derive(Debug)]
pub(crate) struct Token {
    pub(crate) text: String,
    /// Counted from 1.
    pub(crate) line: usize,
    /// Inside an item under `#[cfg(test)]`.
    pub(crate) in_test: bool,
}

impl Token {
    fn new(text: impl ToString, line: usize) -> Self {
        Self {
            text: text.to_string(),
            line,
            in_test: false,
        }
    }
}

impl Source {
    pub(crate) fn parse(path: impl Into<PathBuf>, text: &str) -> Self {
        let path = path.into();
        let stream: TokenStream = text
            .parse()
            .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let mut tokens = Vec::new();
        flatten(stream, &mut tokens);
        mark_tests(&mut tokens);
        Self {
            path,
            text: text.to_owned(),
            tokens,
        }
    }

    /// Every place where these tokens follow each other.
    pub(crate) fn find<'a>(&'a self, pattern: &'a [&str]) -> impl Iterator<Item = &'a Token> {
        positions(&self.tokens, pattern).map(|at| &self.tokens[at])
    }

    /// `path:line: what`, as editors and terminals make it clickable.
    pub(crate) fn at(&self, token: &Token, what: &str) -> String {
        format!("{}:{}: {what}", self.path.display(), token.line)
    }

    pub(crate) fn is_under(&self, dir: &str) -> bool {
        self.path.starts_with(dir)
    }
}

/// Where `pattern` starts in `tokens`.
pub(crate) fn positions<'a>(tokens: &'a [Token], pattern: &'a [&str]) -> impl Iterator<Item = usize> + 'a {
    tokens
        .windows(pattern.len())
        .enumerate()
        .filter(move |(_, window)| window.iter().zip(pattern).all(|(token, text)| token.text == *text))
        .map(|(at, _)| at)
}

/// Top directory of the checkout.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// Every file of the checkout, relative to it, sorted.
pub(crate) fn files() -> Vec<PathBuf> {
    let mut found = Vec::new();
    walk(&root(), &mut found);
    found.sort();
    found
}

/// Every Rust file of the checkout.
pub(crate) fn sources() -> Vec<Source> {
    files()
        .into_iter()
        .filter(|path| path.extension().is_some_and(|extension| extension == "rs"))
        .map(|path| {
            let text =
                fs::read_to_string(root().join(&path)).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            Source::parse(path, &text)
        })
        .collect()
}

fn walk(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap() {
        let entry = entry.unwrap();
        let kind = entry.file_type().unwrap();
        if kind.is_dir() && entry.file_name() != GIT && !entry.path().join(CACHE_MARK).exists() {
            walk(&entry.path(), found);
        } else if kind.is_file() {
            found.push(entry.path().strip_prefix(root()).unwrap().to_owned());
        }
    }
}

fn flatten(stream: TokenStream, into: &mut Vec<Token>) {
    for tree in stream {
        let line = tree.span().start().line;
        match tree {
            TokenTree::Group(group) => {
                let (open, close) = match group.delimiter() {
                    Delimiter::Parenthesis => ("(", ")"),
                    Delimiter::Brace => ("{", "}"),
                    Delimiter::Bracket => ("[", "]"),
                    Delimiter::None => ("", ""),
                };
                into.push(Token::new(open, line));
                flatten(group.stream(), into);
                into.push(Token::new(close, group.span_close().start().line));
            }
            TokenTree::Ident(ident) => into.push(Token::new(ident, line)),
            TokenTree::Punct(punct) => into.push(Token::new(punct, line)),
            TokenTree::Literal(literal) => into.push(Token::new(literal, line)),
        }
    }
}

/// Marks what stands from a `#[cfg(test)]` to the end of its item.
fn mark_tests(tokens: &mut [Token]) {
    let starts: Vec<usize> = positions(tokens, &["#", "[", "cfg", "(", "test", ")", "]"]).collect();
    for start in starts {
        let mut depth = 0_usize;
        for token in &mut tokens[start..] {
            token.in_test = true;
            match token.text.as_str() {
                "{" => depth += 1,
                "}" if depth == 1 => break,
                "}" => depth -= 1,
                ";" if depth == 0 => break,
                _ => {}
            }
        }
    }
}
