//! Regular expressions of tenants: whether RE2, which Envoy has, takes them, and how large it makes them.
//!
//! They are read by the grammar of another library, which is close; what only one of the two has, or what means something else, is refused.

use regex_syntax::ast::parse::Parser;
use regex_syntax::ast::{
    AssertionKind, Ast, ClassPerl, ClassPerlKind, ClassSet, ClassSetItem, ClassUnicodeKind, Flag, FlagsItemKind,
    GroupKind, HexLiteralKind, Literal, LiteralKind, RepetitionKind, RepetitionRange,
};

/// Instructions that Envoy's bootstrap allows, less some for what Envoy puts around.
const MAX_SIZE: u64 = 950;
/// RE2 repeats no more often, also in sum.
const MAX_REPEATS: u64 = 1_000;
/// Longest text of one.
const MAX_LENGTH: usize = 1_024;
/// Characters outside of ASCII take several bytes, so that a class of them is many instructions.
const WIDE: u64 = 40;

/// Why it is refused; nothing when Envoy takes it.
pub(super) fn check(text: &str) -> Result<(), String> {
    if text.len() > MAX_LENGTH {
        return Err(format!("is longer than {MAX_LENGTH} bytes"));
    }
    if text.is_empty() {
        return Err("is empty".to_owned());
    }
    if text.contains('\0') {
        return Err("has a character that no header has".to_owned());
    }
    let ast = Parser::new()
        .parse(text)
        .map_err(|error| format!("is no regular expression: {}", error.kind()))?;
    let size = size(&ast, 1)?;
    if size > MAX_SIZE {
        return Err(format!(
            "is too large: about {size} instructions, {MAX_SIZE} are allowed"
        ));
    }
    Ok(())
}

/// Text that means itself.
pub(crate) fn quote(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len());
    for character in text.chars() {
        if character.is_ascii() && !character.is_ascii_alphanumeric() && character != '_' && character != '/' {
            quoted.push('\\');
        }
        quoted.push(character);
    }
    quoted
}

fn refuse<T>(what: &str) -> Result<T, String> {
    Err(format!("{what} is not supported (the syntax is RE2's)"))
}

/// An estimate that is not too low. `repeats` is how often the parts around repeat this one.
fn size(ast: &Ast, repeats: u64) -> Result<u64, String> {
    match ast {
        Ast::Empty(_) => Ok(1),
        Ast::Flags(flags) => flags_are_known(&flags.flags).map(|()| 0),
        Ast::Literal(literal) => literal_size(literal),
        Ast::Dot(_) => Ok(WIDE),
        Ast::Assertion(assertion) => {
            let is_known = matches!(
                assertion.kind,
                AssertionKind::StartLine
                    | AssertionKind::EndLine
                    | AssertionKind::StartText
                    | AssertionKind::EndText
                    | AssertionKind::WordBoundary
                    | AssertionKind::NotWordBoundary
            );
            if is_known { Ok(1) } else { refuse("this boundary") }
        }
        Ast::ClassUnicode(class) => unicode_size(&class.kind),
        Ast::ClassPerl(class) => Ok(perl_size(class)),
        Ast::ClassBracketed(class) => {
            let inner = class_size(&class.kind)?;
            Ok(if class.negated { inner + WIDE } else { inner })
        }
        Ast::Repetition(repetition) => {
            let (times, copies) = match &repetition.op.kind {
                RepetitionKind::ZeroOrOne | RepetitionKind::ZeroOrMore | RepetitionKind::OneOrMore => (1, 1),
                RepetitionKind::Range(RepetitionRange::Exactly(n)) => (u64::from(*n), u64::from(*n)),
                RepetitionKind::Range(RepetitionRange::AtLeast(n)) => (u64::from(*n).max(1), u64::from(*n) + 1),
                RepetitionKind::Range(RepetitionRange::Bounded(least, most)) => {
                    if least > most {
                        return refuse("a repetition from more to less");
                    }
                    (u64::from(*most).max(1), u64::from(*most))
                }
            };
            if matches!(*repetition.ast, Ast::Repetition(_)) {
                return refuse("a repetition of a repetition");
            }
            let nested = repeats.saturating_mul(times.max(1));
            if nested > MAX_REPEATS {
                return Err(format!("repeats more than {MAX_REPEATS} times"));
            }
            let inner = size(&repetition.ast, nested)?;
            Ok(inner.saturating_add(1).saturating_mul(copies.max(1)).saturating_add(2))
        }
        Ast::Group(group) => {
            match &group.kind {
                GroupKind::CaptureIndex(_) => {}
                GroupKind::CaptureName { .. } => return refuse("a group with a name"),
                GroupKind::NonCapturing(flags) => flags_are_known(flags)?,
            }
            Ok(size(&group.ast, repeats)? + 2)
        }
        Ast::Alternation(alternation) => {
            let sizes = alternation
                .asts
                .iter()
                .map(|ast| Ok(size(ast, repeats)?.saturating_add(2)));
            sizes.sum()
        }
        Ast::Concat(concat) => concat.asts.iter().map(|ast| size(ast, repeats)).sum(),
    }
}

fn flags_are_known(flags: &regex_syntax::ast::Flags) -> Result<(), String> {
    for item in &flags.items {
        match item.kind {
            FlagsItemKind::Negation
            | FlagsItemKind::Flag(
                Flag::CaseInsensitive | Flag::MultiLine | Flag::DotMatchesNewLine | Flag::SwapGreed,
            ) => {}
            FlagsItemKind::Flag(Flag::Unicode | Flag::CRLF | Flag::IgnoreWhitespace) => return refuse("this flag"),
        }
    }
    Ok(())
}

/// Twice the bytes: a letter that is small or not may be two.
fn literal_size(literal: &Literal) -> Result<u64, String> {
    // RE2 takes a backslash before every punctuation character.
    let is_superfluous = matches!(literal.kind, LiteralKind::Superfluous) && literal.c.is_ascii_punctuation();
    let is_known = matches!(
        literal.kind,
        LiteralKind::Verbatim
            | LiteralKind::Meta
            | LiteralKind::Special(_)
            | LiteralKind::HexFixed(HexLiteralKind::X)
            | LiteralKind::HexBrace(HexLiteralKind::X)
    );
    let is_number = matches!(literal.kind, LiteralKind::HexFixed(_) | LiteralKind::HexBrace(_));
    // Envoy's RE2 reads bytes: a number is one of them, and no character.
    if (!is_known && !is_superfluous) || (is_number && !literal.c.is_ascii()) {
        return refuse("this escape");
    }
    Ok(if literal.c.is_ascii() { 2 } else { 8 })
}

fn unicode_size(kind: &ClassUnicodeKind) -> Result<u64, String> {
    let is_known = matches!(kind, ClassUnicodeKind::OneLetter('L' | 'M' | 'N' | 'P' | 'S' | 'Z'));
    if is_known {
        Ok(400)
    } else {
        refuse("this class of characters")
    }
}

fn perl_size(class: &ClassPerl) -> u64 {
    let positive = match class.kind {
        ClassPerlKind::Digit => 2,
        ClassPerlKind::Space | ClassPerlKind::Word => 8,
    };
    if class.negated { positive + WIDE } else { positive }
}

fn class_size(set: &ClassSet) -> Result<u64, String> {
    match set {
        ClassSet::BinaryOp(_) => refuse("a class made of two"),
        ClassSet::Item(item) => item_size(item),
    }
}

fn item_size(item: &ClassSetItem) -> Result<u64, String> {
    match item {
        ClassSetItem::Empty(_) => Ok(1),
        ClassSetItem::Literal(literal) => literal_size(literal),
        ClassSetItem::Range(range) => {
            literal_size(&range.start)?;
            literal_size(&range.end)?;
            Ok(if range.end.c.is_ascii() { 4 } else { WIDE })
        }
        ClassSetItem::Ascii(_) => Ok(16 + WIDE),
        ClassSetItem::Unicode(class) => unicode_size(&class.kind),
        ClassSetItem::Perl(class) => Ok(perl_size(class)),
        ClassSetItem::Bracketed(_) => refuse("a class in a class"),
        ClassSetItem::Union(union) => union.items.iter().map(item_size).sum(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_re2_takes_is_taken() {
        for text in [
            "/api/v[0-9]+/.*",
            "^/users/([^/]+)/(orders|invoices)$",
            "(?i)chrome|firefox",
            r"\d{3}-\w+\.html",
            "[[:alpha:]]+",
            "a{1,16}",
            r"\x{41}\.",
        ] {
            assert_eq!(check(text), Ok(()), "{text}");
        }
        assert_eq!(quote("a.b/c-d"), r"a\.b/c\-d");
    }

    #[test]
    fn what_it_does_not_take_or_what_is_too_large_is_refused() {
        for text in [
            "(",
            "[",
            "a**",
            "a{2}{3}",
            "a**b(",
            "(?=a)",
            r"(a)\1",
            "(?<n>a)",
            "(?P<n>a)",
            "(?x)a b",
            "[a&&b]",
            "[a[b]]",
            r"\p{Greek}",
            r"\u1234",
            r"\x{263a}",
            r"[\x{e9}]",
            r"\<a",
            "a{1001}",
            "(a{100}){100}",
            "(.{30}){30}",
            &"a|".repeat(500),
        ] {
            assert!(check(text).is_err(), "{text}");
        }
    }
}
