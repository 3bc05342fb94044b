//! The file that the keys of SYN cookies come from, and the random ones where there is none.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use listener::syncookies::{COOKIE_KEY_LEN, CookieKey, CookieKeys};

/// Octets of the file at most: two lines and as much commentary as anybody writes.
const FILE_MAX: u64 = 64 * 1024;
/// Hexadecimal digits of one generation.
const DIGITS: usize = 2 * COOKIE_KEY_LEN;

/// Why a file gives no keys: what was wanted, what was found, what to do.
#[derive(Debug, thiserror::Error)]
#[error("cookies.secret_file {}: {message}", path.display())]
pub struct SecretError {
    path: PathBuf,
    message: String,
}

/// The keys in the file `path`: the first line makes and checks cookies, a second one only checks them. Empty lines and
/// lines that begin with `#` do not count.
///
/// # Errors
/// It cannot be read, others than its owner can read or write it, or it holds something else.
pub fn read(path: &Path) -> Result<CookieKeys, SecretError> {
    text_of(path)
        .and_then(|text| parse(&text))
        .map_err(|message| SecretError { path: path.to_owned(), message })
}

fn text_of(path: &Path) -> Result<String, String> {
    let next = format!("write one with \"(umask 077; openssl rand -hex {COOKIE_KEY_LEN} > FILE)\"");
    let cannot = |error: io::Error| format!("cannot read it: {error}; {next}");
    let file = File::open(path).map_err(cannot)?;
    let meta = file.metadata().map_err(cannot)?;
    if !meta.is_file() {
        return Err(format!("it is no regular file; {next}"));
    }
    let mode = meta.permissions().mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(format!(
            "nobody but its owner may read it, and its mode is {mode:04o}; \"chmod 600\" it, and if others could read \
             it, write a new one"
        ));
    }
    let mut text = String::new();
    file.take(FILE_MAX).read_to_string(&mut text).map_err(cannot)?;
    Ok(text)
}

fn parse(text: &str) -> Result<CookieKeys, String> {
    let lines = text.lines().map(str::trim).zip(1..);
    let mut keys = lines.filter(|(line, _)| !line.is_empty() && !line.starts_with('#')).map(|(line, number)| {
        key(line).ok_or_else(|| {
            format!(
                "line {number} must be {DIGITS} hexadecimal digits and has {} characters; write it with \"openssl rand \
                 -hex {COOKIE_KEY_LEN}\"",
                line.chars().count()
            )
        })
    });
    let Some(current) = keys.next().transpose()? else {
        return Err(format!(
            "it must hold a line of {DIGITS} hexadecimal digits, and holds none; write it with \"openssl rand -hex \
             {COOKIE_KEY_LEN}\""
        ));
    };
    let other = keys.next().transpose()?;
    if keys.next().is_some() {
        return Err("two generations are kept, and it holds more; remove the oldest".into());
    }
    if other == Some(current) {
        return Err("both generations are the same; remove one line".into());
    }
    Ok(CookieKeys { current, other, shared: true })
}

fn key(line: &str) -> Option<CookieKey> {
    if line.len() != DIGITS || !line.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    let mut bytes = [0; COOKIE_KEY_LEN];
    for (byte, at) in bytes.iter_mut().zip((0..DIGITS).step_by(2)) {
        *byte = u8::from_str_radix(&line[at..at + 2], 16).ok()?;
    }
    Some(CookieKey::from_bytes(&bytes))
}

/// A generation from the kernel's generator.
///
/// # Errors
/// There is none to be read.
pub fn random() -> io::Result<CookieKey> {
    let mut bytes = [0; COOKIE_KEY_LEN];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(CookieKey::from_bytes(&bytes))
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};

    use super::*;

    const A: &str =
        "00112233445566778899aabbccddeeff00112233445566778899AABBCCDDEEFF00112233445566778899aabbccddeeff";
    const B: &str =
        "ff112233445566778899aabbccddeeff00112233445566778899AABBCCDDEEFF00112233445566778899aabbccddeeff";

    #[test]
    fn the_first_line_makes_and_the_second_only_checks() {
        let one = parse(&format!("# of autumn\n\n  {A} \n")).expect("a key");
        assert_eq!((one.other, one.shared), (None, true));
        let bytes: [u8; 48] =
            std::array::from_fn(|byte| u8::from_str_radix(&A[2 * byte..2 * byte + 2], 16).expect("hex"));
        assert_eq!(one.current, CookieKey::from_bytes(&bytes));
        let two = parse(&format!("{B}\n{A}")).expect("two keys");
        assert_eq!((two.current == one.current, two.other), (false, Some(one.current)));
    }

    #[test]
    fn what_is_no_secret_is_refused_with_the_next_step() {
        let said = |text: &str| parse(text).expect_err("no keys");
        assert_eq!(
            said(&A[1..]),
            "line 1 must be 96 hexadecimal digits and has 95 characters; write it with \"openssl rand -hex 48\""
        );
        assert!(said(&format!("#\n{A}\n{}g", &B[1..])).starts_with("line 3 must be 96 hexadecimal digits"));
        assert!(said(&format!("{}é", &A[2..])).contains("95 characters"), "no panic within a character");
        assert!(said("# nothing\n").contains("and holds none"));
        assert!(said(&format!("{A}\n{B}\n{A}\n")).contains("remove the oldest"));
        assert!(said(&format!("{A}\n{A}\n")).contains("remove one line"));
    }

    #[test]
    fn a_file_that_others_can_read_is_refused() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("secret");
        fs::write(&path, A).expect("a file");
        for (mode, good) in [(0o600, true), (0o400, true), (0o640, false), (0o604, false), (0o620, false)] {
            fs::set_permissions(&path, Permissions::from_mode(mode)).expect("our own");
            match read(&path) {
                Ok(_) => assert!(good, "{mode:o}"),
                Err(error) => {
                    let said = error.to_string();
                    assert!(
                        !good && said.contains(&format!("its mode is {mode:04o}; \"chmod 600\"")),
                        "{said}"
                    );
                }
            }
        }
        let missing = read(&dir.path().join("none")).expect_err("nothing is there").to_string();
        assert!(missing.contains("No such file") && missing.contains("openssl rand -hex 48"), "{missing}");
        assert!(read(dir.path()).expect_err("a directory").to_string().contains("no regular file"));
    }

    #[test]
    fn generations_are_drawn_anew() {
        assert_ne!(random().expect("a generator"), random().expect("a generator"));
    }
}
