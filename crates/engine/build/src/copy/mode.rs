//! `--chmod`: an octal number, or what `chmod` takes (`u+rwX,go=rX`).

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Chmod {
    Exact(u32),
    Symbolic(Vec<Clause>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Clause {
    /// Any of 0o700, 0o070, 0o007.
    who: u32,
    op: char,
    /// Three bits.
    bits: u32,
    /// `g=u`: also the three bits that these classes have, as shifts.
    copied: Vec<u32>,
    /// `X`: execute only where somebody may already, or on directories.
    exec_if: bool,
    set_id: bool,
    sticky: bool,
}

/// Empty is fine: nothing is changed.
pub(crate) fn check_chmod(text: &str) -> Result<(), String> {
    if text.is_empty() { Ok(()) } else { Chmod::parse(text).map(drop) }
}

impl Chmod {
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let bad = || format!("invalid chmod parameter: '{text}'. it should be octal string and between 0 and 07777");
        if text.starts_with(|c: char| c.is_ascii_digit()) {
            return match u32::from_str_radix(text, 8) {
                Ok(mode) if mode <= 0o7777 => Ok(Self::Exact(mode)),
                _ => Err(bad()),
            };
        }
        let clauses = text.split(',').map(|clause| parse_clause(clause).ok_or_else(bad)).collect::<Result<_, _>>()?;
        Ok(Self::Symbolic(clauses))
    }

    /// The new permission bits of something that has `mode` now.
    pub(crate) fn apply(&self, mode: u32, directory: bool) -> u32 {
        match self {
            Self::Exact(exact) => *exact,
            Self::Symbolic(clauses) => clauses.iter().fold(mode & 0o7777, |mode, c| c.apply(mode, directory)),
        }
    }
}

fn parse_clause(text: &str) -> Option<Clause> {
    let at = text.find(['+', '-', '='])?;
    let mut who = 0;
    for c in text[..at].chars() {
        who |= match c {
            'u' => 0o700,
            'g' => 0o070,
            'o' => 0o007,
            'a' => 0o777,
            _ => return None,
        };
    }
    if who == 0 {
        who = 0o777;
    }
    let mut clause = Clause {
        who,
        op: text[at..].chars().next()?,
        bits: 0,
        copied: Vec::new(),
        exec_if: false,
        set_id: false,
        sticky: false,
    };
    for c in text[at + 1..].chars() {
        match c {
            'r' => clause.bits |= 4,
            'w' => clause.bits |= 2,
            'x' => clause.bits |= 1,
            'X' => clause.exec_if = true,
            's' => clause.set_id = true,
            't' => clause.sticky = true,
            'u' => clause.copied.push(6),
            'g' => clause.copied.push(3),
            'o' => clause.copied.push(0),
            _ => return None,
        }
    }
    Some(clause)
}

impl Clause {
    fn apply(&self, mode: u32, directory: bool) -> u32 {
        let mut bits = self.copied.iter().fold(self.bits, |bits, shift| bits | mode >> shift & 0o7);
        if self.exec_if && (directory || mode & 0o111 != 0) {
            bits |= 1;
        }
        let mut set = (bits * 0o111) & self.who;
        if self.set_id {
            set |= if self.who & 0o700 != 0 { 0o4000 } else { 0 } | if self.who & 0o070 != 0 { 0o2000 } else { 0 };
        }
        if self.sticky {
            set |= 0o1000;
        }
        match self.op {
            '+' => mode | set,
            '-' => mode & !set,
            _ => mode & !self.who | set,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_change_as_chmod_changes_them() {
        for (text, mode, directory, expected) in [
            ("755", 0o600, false, 0o755),
            ("u+x", 0o644, false, 0o744),
            ("go-rwx", 0o777, false, 0o700),
            ("a=rX", 0o640, false, 0o444),
            ("a=rX", 0o640, true, 0o555),
            ("u=rwX,go=rX", 0o700, false, 0o755),
            ("+x", 0o644, false, 0o755),
            ("u+s,+t", 0o755, false, 0o5755),
            ("g=u", 0o740, false, 0o770),
            ("go=u,o-w", 0o6, false, 0),
            ("o+gx", 0o640, false, 0o645),
            ("g-u", 0o470, false, 0o430),
        ] {
            assert_eq!(Chmod::parse(text).unwrap().apply(mode, directory), expected, "{text}");
        }
        for text in ["8", "17777", "x", "u+q", "u", "z=u"] {
            assert!(check_chmod(text).is_err(), "{text}");
        }
    }
}
