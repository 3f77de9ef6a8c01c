//! Addresses of files and of git repositories. Pure: an address comes from a Dockerfile, so nothing of it may be taken for an
//! option or lead to another way of transport than the four that are known (BL-06).

/// What an address stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Remote {
    /// A file: for a context a tar or a Dockerfile.
    Http(String),
    Git(GitRemote),
}

/// A repository, and what of it is meant.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct GitRemote {
    /// For `git fetch`: no fragment, no query of ours.
    pub url: String,
    /// A branch, a tag, a full reference or a commit; empty: the repository's `HEAD`.
    pub reference: String,
    /// Relative; empty: all of it.
    pub subdir: String,
    /// What the commit has to start with, hexadecimal.
    pub checksum: Option<String>,
    pub keep_git_dir: Option<bool>,
    pub submodules: bool,
}

impl Remote {
    /// `None`: it is no address but a path. An address that cannot be used is an error.
    pub fn parse(text: &str) -> Result<Option<Self>, String> {
        if let Some(git) = GitRemote::parse(text)? {
            return Ok(Some(Self::Git(git)));
        }
        let lower = text.to_ascii_lowercase();
        Ok((lower.starts_with("http://") || lower.starts_with("https://")).then(|| Self::Http(text.to_owned())))
    }
}

impl GitRemote {
    /// `None`: this is no repository's address.
    pub fn parse(text: &str) -> Result<Option<Self>, String> {
        let (address, fragment) = match text.split_once('#') {
            Some((address, fragment)) => (address, Some(fragment)),
            None => (text, None),
        };
        let (address, query) = match address.split_once('?') {
            Some((address, query)) => (address, Some(query)),
            None => (address, None),
        };
        let url = match scheme(address) {
            Some(("http" | "https", path)) if path.ends_with(".git") => address.to_owned(),
            Some(("git" | "ssh", _)) => address.to_owned(),
            Some(_) => return Ok(None),
            // Docker's own short form.
            None if address.starts_with("github.com/") => format!("https://{address}"),
            None if is_scp(address) => address.to_owned(),
            None => return Ok(None),
        };
        let bad = |detail: &str| format!("invalid git URL {text:?}: {detail}");
        if url.chars().any(|c| c.is_control() || c.is_whitespace()) {
            return Err(bad("it has blanks or control characters"));
        }
        if host(&url).is_none_or(|host| host.is_empty() || host.starts_with('-')) {
            return Err(bad("its host cannot be one"));
        }
        let mut git = Self { url, submodules: true, ..Self::default() };
        if let Some(fragment) = fragment {
            let (reference, subdir) = fragment.split_once(':').unwrap_or((fragment, ""));
            (git.reference, git.subdir) = (reference.to_owned(), subdir.to_owned());
        }
        if let Some(query) = query {
            git.query(query).map_err(|detail| bad(&detail))?;
        }
        git.check().map_err(|detail| bad(&detail))?;
        Ok(Some(git))
    }

    /// `?ref=main&subdir=app&checksum=abc123`.
    fn query(&mut self, query: &str) -> Result<(), String> {
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            let value = percent_decoded(value).ok_or_else(|| format!("{key} is not UTF-8 text"))?;
            let flag = || match value.as_str() {
                "" | "1" | "true" => Ok(true),
                "0" | "false" => Ok(false),
                _ => Err(format!("{key}={value} is neither true nor false")),
            };
            let conflict = |old: &str| {
                if old.is_empty() || old == value { Ok(()) } else { Err(format!("{key} conflicts with {old:?}")) }
            };
            match key {
                "ref" => conflict(&self.reference).map(|()| self.reference = value)?,
                "branch" => self.reference = format!("refs/heads/{value}"),
                "tag" => self.reference = format!("refs/tags/{value}"),
                "subdir" => conflict(&self.subdir).map(|()| self.subdir = value)?,
                "checksum" | "commit" => self.checksum = Some(value),
                "keep-git-dir" => self.keep_git_dir = Some(flag()?),
                "submodules" => self.submodules = flag()?,
                _ => return Err(format!("unexpected query {key:?}")),
            }
        }
        Ok(())
    }

    fn check(&self) -> Result<(), String> {
        let reference = &self.reference;
        let odd = |c: char| c.is_control() || c.is_whitespace() || "~^:?*[\\".contains(c);
        let strange = reference.starts_with('-') || reference.contains("..") || reference.chars().any(odd);
        if strange && !vocab::weak::without("git-options") {
            return Err(format!("{reference:?} is no reference's name"));
        }
        if self.subdir.split('/').any(|part| part == "..") || self.subdir.contains('\0') {
            return Err(format!("the subdirectory {:?} leads out of the repository", self.subdir));
        }
        if let Some(checksum) = &self.checksum
            && !(checksum.len() >= 7 && checksum.len() <= 64 && checksum.bytes().all(|b| b.is_ascii_hexdigit()))
        {
            return Err(format!("invalid checksum {checksum:?}, expected at least 7 hexadecimal digits of a commit"));
        }
        Ok(())
    }

    /// Whether the reference is a whole commit's name.
    pub(crate) fn is_commit(&self) -> bool {
        is_object(&self.reference)
    }

    /// `https://host/repository.git#ref:subdir`, for messages.
    pub fn shown(&self) -> String {
        match (self.reference.as_str(), self.subdir.as_str()) {
            ("", "") => self.url.clone(),
            (reference, "") => format!("{}#{reference}", self.url),
            (reference, subdir) => format!("{}#{reference}:{subdir}", self.url),
        }
    }
}

pub(crate) fn is_object(text: &str) -> bool {
    matches!(text.len(), 40 | 64) && text.bytes().all(|b| b.is_ascii_hexdigit())
}

fn scheme(address: &str) -> Option<(&str, &str)> {
    let (scheme, rest) = address.split_once("://")?;
    Some((["http", "https", "git", "ssh"].into_iter().find(|known| scheme.eq_ignore_ascii_case(known))?, rest))
        .or(Some(("", rest)))
}

/// `git@host:path`, as ssh's own copy program has it: only this user's, as Docker takes it.
fn is_scp(address: &str) -> bool {
    address.strip_prefix("git@").is_some_and(|rest| rest.split('/').next().is_some_and(|head| head.contains(':')))
}

fn host(url: &str) -> Option<&str> {
    let authority = match url.split_once("://") {
        Some((_, rest)) => rest.split('/').next()?,
        None => url.split(':').next()?,
    };
    Some(authority.rsplit_once('@').map_or(authority, |(_, host)| host))
}

/// The last part of an address's path: the name of a downloaded file.
pub(crate) fn file_name(url: &str) -> String {
    let path = url.split(['?', '#']).next().unwrap_or_default();
    let path = path.split_once("://").map_or(path, |(_, rest)| rest);
    let name = path.split_once('/').map_or("", |(_, path)| path.rsplit('/').next().unwrap_or_default());
    match percent_decoded(name).unwrap_or_default().as_str() {
        "" | "." | ".." => "__unnamed__".to_owned(),
        name if name.contains(['/', '\0']) => "__unnamed__".to_owned(),
        name => name.to_owned(),
    }
}

fn percent_decoded(text: &str) -> Option<String> {
    let mut out = Vec::new();
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'%' => {
                let digits = [bytes.next()?, bytes.next()?];
                out.push(u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?);
            }
            byte => out.push(byte),
        }
    }
    String::from_utf8(out).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn git(url: &str, reference: &str, subdir: &str) -> GitRemote {
        GitRemote {
            url: url.into(),
            reference: reference.into(),
            subdir: subdir.into(),
            submodules: true,
            ..GitRemote::default()
        }
    }

    #[test]
    fn addresses_are_told_apart() {
        for (text, expected) in [
            ("https://h/r.git", git("https://h/r.git", "", "")),
            ("https://h/r.git#main:sub/dir", git("https://h/r.git", "main", "sub/dir")),
            ("git://h/r#:sub", git("git://h/r", "", "sub")),
            ("git@h:u/r.git#v1", git("git@h:u/r.git", "v1", "")),
            ("ssh://git@h:22/r", git("ssh://git@h:22/r", "", "")),
            ("github.com/u/r", git("https://github.com/u/r", "", "")),
            ("https://h/r.git?tag=v1&subdir=a%20b", git("https://h/r.git", "refs/tags/v1", "a b")),
        ] {
            assert_eq!(Remote::parse(text), Ok(Some(Remote::Git(expected))), "{text}");
        }
        assert_eq!(Remote::parse("https://h/x.tar#y"), Ok(Some(Remote::Http("https://h/x.tar#y".into()))));
        for path in ["dir", "./a.git", "/abs", "file:///etc", "ext::sh -c id", "oci-layout://x", "user@h:x"] {
            assert_eq!(Remote::parse(path), Ok(None), "{path}");
        }
        let full = GitRemote::parse("https://h/r.git?commit=abcdef1&keep-git-dir=1&submodules=0").unwrap().unwrap();
        assert_eq!(
            (full.checksum.as_deref(), full.keep_git_dir, full.submodules),
            (Some("abcdef1"), Some(true), false)
        );
    }

    /// BL-06: nothing of an address is an option, another transport or a way out.
    #[test]
    fn tricks_are_refused() {
        for text in [
            "https://h/r.git#--upload-pack=id",
            "https://h/r.git#main:../../etc",
            "ssh://-oProxyCommand=id/r.git",
            "git@-oProxyCommand=id:r.git",
            "git://h/r\n.git",
            "https://h/r.git#a..b",
            "https://h/r.git?upload-pack=id",
            "https://h/r.git?ref=a&checksum=--x",
            "https:///r.git",
        ] {
            assert!(Remote::parse(text).is_err(), "{text}: {:?}", Remote::parse(text));
        }
    }

    #[test]
    fn files_are_named_by_the_last_part() {
        for (url, name) in [
            ("https://h/a/b.txt?x=1/2", "b.txt"),
            ("https://h/a%20b", "a b"),
            ("https://h/", "__unnamed__"),
            ("https://h", "__unnamed__"),
            ("https://h/%2e%2e", "__unnamed__"),
            ("https://h/a%2fb", "__unnamed__"),
        ] {
            assert_eq!(file_name(url), name, "{url}");
        }
    }
}
