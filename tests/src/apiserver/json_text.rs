//! What is wrong with a text that is no JSON, in the words of Go's parser: clients show them, and some look for them.
//!
//! It only complains; reading is the JSON crate's.

/// Why `text` is no JSON; `None` when it is.
pub(crate) fn complaint(text: &[u8]) -> Option<String> {
    Scanner { rest: text }.document().err()
}

/// What comes next.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Next {
    Value,
    FirstItem,
    FirstKey,
    Key,
    Colon,
    /// A comma, or the end of what is open.
    More,
}

struct Scanner<'a> {
    rest: &'a [u8],
}

impl Scanner<'_> {
    fn document(&mut self) -> Result<(), String> {
        // The ends of what is open.
        let mut open: Vec<u8> = Vec::new();
        let mut next = Next::Value;
        loop {
            while let [b' ' | b'\t' | b'\r' | b'\n', rest @ ..] = self.rest {
                self.rest = rest;
            }
            let inside = open.last().copied();
            if next == Next::More && inside.is_none() {
                return match self.rest.first() {
                    None => Ok(()),
                    Some(byte) => Err(invalid(*byte, "after top-level value")),
                };
            }
            let byte = self.byte()?;
            next = match (next, byte) {
                (Next::More | Next::FirstItem | Next::FirstKey, end @ (b']' | b'}')) if inside == Some(end) => {
                    open.pop();
                    Next::More
                }
                (Next::More, b',') if inside == Some(b'}') => Next::Key,
                (Next::More, b',') => Next::Value,
                (Next::More, _) if inside == Some(b'}') => return Err(invalid(byte, "after object key:value pair")),
                (Next::More, _) => return Err(invalid(byte, "after array element")),
                (Next::FirstKey | Next::Key, b'"') => {
                    self.string()?;
                    Next::Colon
                }
                (Next::FirstKey | Next::Key, _) => {
                    return Err(invalid(byte, "looking for beginning of object key string"));
                }
                (Next::Colon, b':') => Next::Value,
                (Next::Colon, _) => return Err(invalid(byte, "after object key")),
                (Next::Value | Next::FirstItem, b'{') => {
                    open.push(b'}');
                    Next::FirstKey
                }
                (Next::Value | Next::FirstItem, b'[') => {
                    open.push(b']');
                    Next::FirstItem
                }
                (Next::Value | Next::FirstItem, _) => {
                    self.scalar(byte)?;
                    Next::More
                }
            };
        }
    }

    fn byte(&mut self) -> Result<u8, String> {
        let (byte, rest) = self.rest.split_first().ok_or("unexpected end of JSON input")?;
        self.rest = rest;
        Ok(*byte)
    }

    fn scalar(&mut self, first: u8) -> Result<(), String> {
        match first {
            b'"' => self.string(),
            b'-' | b'0'..=b'9' => self.number(first),
            b't' => self.literal("true"),
            b'f' => self.literal("false"),
            b'n' => self.literal("null"),
            _ => Err(invalid(first, "looking for beginning of value")),
        }
    }

    fn literal(&mut self, word: &str) -> Result<(), String> {
        for expected in word.bytes().skip(1) {
            let byte = self.byte()?;
            if byte != expected {
                let context = format!("in literal {word} (expecting '{}')", char::from(expected));
                return Err(invalid(byte, &context));
            }
        }
        Ok(())
    }

    fn string(&mut self) -> Result<(), String> {
        loop {
            match self.byte()? {
                b'"' => return Ok(()),
                b'\\' => match self.byte()? {
                    b'b' | b'f' | b'n' | b'r' | b't' | b'\\' | b'/' | b'"' => {}
                    b'u' => {
                        for _ in 0..4 {
                            let byte = self.byte()?;
                            if !byte.is_ascii_hexdigit() {
                                return Err(invalid(byte, "in \\u hexadecimal character escape"));
                            }
                        }
                    }
                    byte => return Err(invalid(byte, "in string escape code")),
                },
                byte if byte < b' ' => return Err(invalid(byte, "in string literal")),
                _ => {}
            }
        }
    }

    fn number(&mut self, first: u8) -> Result<(), String> {
        let mut leading = first;
        if first == b'-' {
            leading = self.digit("in numeric literal")?;
        }
        if leading != b'0' {
            self.digits();
        }
        if self.takes(b".") {
            self.digit("after decimal point in numeric literal")?;
            self.digits();
        }
        if self.takes(b"eE") {
            self.takes(b"+-");
            self.digit("in exponent of numeric literal")?;
            self.digits();
        }
        Ok(())
    }

    fn digit(&mut self, context: &str) -> Result<u8, String> {
        match self.byte()? {
            byte @ b'0'..=b'9' => Ok(byte),
            byte => Err(invalid(byte, context)),
        }
    }

    fn digits(&mut self) {
        while self.takes(b"0123456789") {}
    }

    /// Whether one of `bytes` comes next; it is taken then.
    fn takes(&mut self, bytes: &[u8]) -> bool {
        match self.rest.split_first() {
            Some((byte, rest)) if bytes.contains(byte) => {
                self.rest = rest;
                true
            }
            _ => false,
        }
    }
}

fn invalid(byte: u8, context: &str) -> String {
    let shown = match byte {
        b'\'' => "\\'".to_owned(),
        b'\\' => "\\\\".to_owned(),
        b'\n' => "\\n".to_owned(),
        b'\r' => "\\r".to_owned(),
        b'\t' => "\\t".to_owned(),
        b' '..=b'~' => char::from(byte).to_string(),
        _ => format!("\\x{byte:02x}"),
    };
    format!("invalid character '{shown}' {context}")
}

#[cfg(test)]
mod tests {
    use super::complaint;

    #[test]
    fn what_is_json_is_not_complained_of() {
        for text in [
            " {} ",
            "[]",
            "-0.5e+7",
            "10",
            r#"{"a": [1, {"b": null}, "\u00e9\n"], "c": false}"#,
        ] {
            assert_eq!(complaint(text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn complaints_say_what_came_where() {
        for (text, why) in [
            ("", "unexpected end of JSON input"),
            (r#"{"a":1"#, "unexpected end of JSON input"),
            (r#"{"a":"x"#, "unexpected end of JSON input"),
            (
                "{nope",
                "invalid character 'n' looking for beginning of object key string",
            ),
            (
                r#"{"a":1,}"#,
                "invalid character '}' looking for beginning of object key string",
            ),
            (r#"{"a"1}"#, "invalid character '1' after object key"),
            (r#"{"a":1 "b"}"#, "invalid character '\"' after object key:value pair"),
            (r#"{"a":01}"#, "invalid character '1' after object key:value pair"),
            ("[1 2]", "invalid character '2' after array element"),
            ("[1}", "invalid character '}' after array element"),
            ("[1,]", "invalid character ']' looking for beginning of value"),
            ("\u{cf}", "invalid character '\\xc3' looking for beginning of value"),
            ("{}x", "invalid character 'x' after top-level value"),
            ("nope", "invalid character 'o' in literal null (expecting 'u')"),
            ("tru}", "invalid character '}' in literal true (expecting 'e')"),
            (r#""\q""#, "invalid character 'q' in string escape code"),
            (
                r#""\u12g4""#,
                "invalid character 'g' in \\u hexadecimal character escape",
            ),
            ("\"a\nb\"", "invalid character '\\n' in string literal"),
            ("-}", "invalid character '}' in numeric literal"),
            ("1.x", "invalid character 'x' after decimal point in numeric literal"),
            ("1ex", "invalid character 'x' in exponent of numeric literal"),
        ] {
            assert_eq!(complaint(text.as_bytes()).as_deref(), Some(why), "{text}");
        }
    }
}
