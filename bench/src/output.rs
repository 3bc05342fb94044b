//! What is printed: on a pipe whose reader has gone, a full disk, or a terminal that was closed.

use std::fmt::Arguments;
use std::io::{self, ErrorKind, Write};

use anyhow::Context;

/// Writes to standard output. A reader that has gone has had enough, as with `hearken-load … | head`.
///
/// # Errors
/// What else the system says, such as that no space is left.
pub fn on_stdout(text: Arguments<'_>) -> anyhow::Result<()> {
    written(&mut io::stdout().lock(), text).context("cannot write to standard output")
}

/// Writes to standard error, if that can be written to: a note is not worth a run.
pub fn on_stderr(text: Arguments<'_>) {
    let _ = io::stderr().lock().write_fmt(text);
}

fn written(out: &mut impl Write, text: Arguments<'_>) -> io::Result<()> {
    match out.write_fmt(text).and_then(|()| out.flush()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        written => written,
    }
}

/// [`on_stdout`] with a format, or with a line's end.
macro_rules! say {
    ($($text:tt)*) => { $crate::output::on_stdout(format_args!($($text)*))? };
}
macro_rules! sayln {
    ($($text:tt)*) => { $crate::output::on_stdout(format_args!("{}\n", format_args!($($text)*)))? };
}

/// [`on_stderr`] with a format, or with a line's end.
macro_rules! note {
    ($($text:tt)*) => { $crate::output::on_stderr(format_args!($($text)*)) };
}
macro_rules! noteln {
    ($($text:tt)*) => { $crate::output::on_stderr(format_args!("{}\n", format_args!($($text)*))) };
}

pub(crate) use {note, noteln, say, sayln};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_that_is_gone_is_no_error_and_a_full_disk_is() {
        let (reader, mut writer) = io::pipe().expect("a pipe");
        drop(reader);
        assert!(written(&mut writer, format_args!("{}", 1)).is_ok());
        let mut full = std::fs::File::options().write(true).open("/dev/full").expect("Linux has it");
        let error = written(&mut full, format_args!("{}", 1)).expect_err("it is full");
        assert_eq!(error.kind(), ErrorKind::StorageFull);
    }
}
